#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <utility>
#include <vector>

#include "taylor/jet.h"

// What Nodes that record jets, and their backward in torch's operations, have in common.
namespace highgrad::taylor {

// The edge to the tensor that `rows` expands, and its shape: its cotangent is summed over samples as it is made.
// No edge where `rows` require no gradients.
std::pair<torch::autograd::Edge, std::vector<int64_t>> edge_of_rows(const at::Tensor& rows);

// Whether `rows` repeat along dimensions of size 1 of `shape` alone, so that cotangents may be summed over them.
bool repeats_as(const at::Tensor& rows, at::IntArrayRef shape);

// Of forward mode.
bool has_tangent(const at::Tensor& tensor);

// The adjoint of sum_directions: [1, *shape] -> [D, *shape].
at::Tensor of_directions(const Frame& frame, const at::Tensor& sum);

// Rows of the directions that reach a higher order, with zeros for the others of order k.
at::Tensor with_all_rows(const Frame& frame, int64_t k, at::Tensor rows);

} // namespace highgrad::taylor
