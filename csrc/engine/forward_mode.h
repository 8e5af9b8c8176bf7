#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "tape/tape.h"

namespace highgrad::engine {

// Why forward mode (see Note [Forward mode by double backward]) cannot be used for one output, or an empty string.
std::string forward_obstacle(const at::Tensor& output, const tape::Tape& tape, const std::vector<at::Tensor>& inputs);

// Whether all entries are finite, or so large that their sum is not. Entries without data are. Where some are not,
// 0 * inf = NaN arises in other places than in reverse mode, which is what users know.
bool is_finite(const at::Tensor& tensor);

} // namespace highgrad::engine
