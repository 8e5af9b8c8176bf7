#pragma once

#include <ATen/core/Tensor.h>

#include "taylor/recurrence.h"

namespace highgrad::taylor {

// Note [Recorded solutions]
// In torch's operations, one activation of a network takes some tens of Nodes on the graph, each of which reads and
// writes all of its memory again, forward and backward. solve_by_element goes through memory once, so here it is
// recorded as one Node, whose backward is reverse_by_element. Where that backward is to be recorded itself, or gets
// tensors that are none of memory, as those of vmap, it is done in torch's operations, which differentiate to any
// order.

// solve_by_element, recorded as one Node if any of its operands requires gradients. Undefined where it does not serve.
at::Tensor record_solution(
    const Frame& frame,
    const Series& x,
    const at::Tensor& y0,
    const at::Tensor& w0,
    const Slope& slope);

} // namespace highgrad::taylor
