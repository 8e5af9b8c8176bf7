#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "engine/options.h"

namespace highgrad::taylor {

// First derivatives by gradients, which are cheaper than jets where the outputs have fewer elements a sample than there
// are derivatives, or one: as their samples are independent, one row for each element of a sample gives all of them.
// options: create_graph, batch_dims, after_sweep and on_warning are heeded. The caller has checked that the first
// batch_dims dimensions of outputs and inputs are the same independent samples. All give nothing where jets serve
// better.

// Of every output by some elements of all inputs of a sample together, in order: as many tensors of its shape.
std::optional<std::vector<at::Tensor>> first_partials(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const std::vector<int64_t>& variables,
    const engine::JacobianOptions& options);

// Of every output along directions, directions[j] [D, *inputs[j].shape] or undefined for zero: [D, *output.shape].
std::optional<std::vector<at::Tensor>> first_along(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const std::vector<at::Tensor>& directions,
    const engine::JacobianOptions& options);

// Of every output by every input, outputs outside: of shape output.shape + input.shape without its samples. Nothing
// where an output has no graph or no elements.
std::optional<std::vector<at::Tensor>> sample_jacobians(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const engine::JacobianOptions& options);

} // namespace highgrad::taylor
