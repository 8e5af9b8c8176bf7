#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plan/mode.h"
#include "structure/compression.h"

namespace highgrad::engine {

struct JacobianOptions {
  // Name of the public function, for messages.
  std::string caller;
  bool create_graph = true;
  bool retain_graph = true;
  bool allow_unused = true;
  bool strict = false;
  std::optional<int64_t> chunk_size;
  plan::Mode mode = plan::Mode::kAuto;
  // Whether to look for structure and to compute only what it leaves.
  bool use_structure = true;
  // Structures to use, one for each output or none at all; null where one is to be found.
  std::vector<std::shared_ptr<const structure::Compression>> kept = {};
  // Of the results: strided, or sparse matrices [output.numel(), input.numel()].
  at::Layout layout = at::kStrided;
  // How many of the first axes of all outputs and inputs count independent samples.
  int64_t batch_dims = 0;
  // Called after every sweep with the passes done and all passes; may throw.
  std::function<void(int64_t, int64_t)> after_sweep;
};

// The Jacobians of every output by every input, outputs outside: entry i * inputs.size() + j has shape
// outputs[i].shape + inputs[j].shape.
std::vector<at::Tensor> full_jacobian(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const JacobianOptions& options,
    const std::optional<std::vector<at::Tensor>>& out);

// Frees what the graph between `outputs` and `inputs` has saved, as a backward without retain_graph does.
void release_graph(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs);

} // namespace highgrad::engine
