#pragma once

#include <cstddef>
#include <cstdint>

#include "structure/digits.h"
#include "structure/node_table.h"

namespace highgrad::structure {

// The digits of an operator's in number `k`, of shape `in`, by those of its out number `nr`, of shape `out`.
Digits flow_through(
    Flow flow,
    const NodeAttributes& attributes,
    uint32_t nr,
    size_t k,
    size_t num_ins,
    const Shape& out,
    const Shape& in,
    const Digits& digits);

} // namespace highgrad::structure
