#include "engine/forward_mode.h"

#include <torch/csrc/autograd/anomaly_mode.h>

#include <cmath>

namespace highgrad::engine {

std::string forward_obstacle(const at::Tensor& output, const tape::Tape& tape, const std::vector<at::Tensor>& inputs) {
  for (const tape::TapeNode& node : tape.nodes) {
    if (!tape::is_vjp_recorded(*node.node)) {
      return "double backward through " + node.node->name() + ", or through its hooks, may be wrong";
    }
    if (!tape::takes_dtype(*node.node, output.dtype())) {
      return "the graph mixes dtypes, which would round differently";
    }
  }
  if (torch::autograd::AnomalyMode::is_enabled()) {
    return "anomaly mode is on";
  }
  if (output.key_set().has_any(
          c10::DispatchKeySet({c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::Python}))) {
    return "f is inside a torch.func transform, or of a tensor subclass";
  }
  for (const at::Tensor& input : inputs) {
    if (input.is_complex()) {
      return "a wrt is complex";
    }
    if (input.device() != output.device()) {
      return "f and wrt are on different devices";
    }
  }
  return "";
}

bool is_finite(const at::Tensor& tensor) {
  return tensor.is_meta() || std::isfinite(tensor.detach().sum().item<double>());
}

} // namespace highgrad::engine
