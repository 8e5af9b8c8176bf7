#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

#include "engine/options.h"

namespace highgrad::engine {

// The Jacobians of every output by every input, outputs outside: entry i * inputs.size() + j has shape
// outputs[i].shape + inputs[j].shape.
std::vector<at::Tensor> full_jacobian(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const JacobianOptions& options,
    const std::optional<std::vector<at::Tensor>>& out);

// What full_jacobian would do with these arguments, one plan an output. Probes may run sweeps; nothing is changed.
std::vector<std::shared_ptr<const plan::OutputPlan>> plan_jacobian(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const JacobianOptions& options);

// Frees what the graph between `outputs` and `inputs` has saved, as a backward without retain_graph does.
void release_graph(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs);

} // namespace highgrad::engine
