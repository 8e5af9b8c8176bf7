#include "engine/forward_mode.h"

#include <torch/csrc/autograd/anomaly_mode.h>

#include <cmath>
#include <exception>
#include <utility>

#include "engine/double_backward_jvp.h"
#include "engine/failure.h"
#include "engine/jacobian_block.h"
#include "engine/plain_tensor.h"
#include "engine/sweeps.h"

namespace highgrad::engine {

std::string plain_obstacle(const at::Tensor& output, const std::vector<at::Tensor>& inputs) {
  if (torch::autograd::AnomalyMode::is_enabled()) {
    return "anomaly mode is on";
  }
  if (!is_plain(output)) {
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

std::string forward_obstacle(const at::Tensor& output, const tape::Tape& tape, const std::vector<at::Tensor>& inputs) {
  for (const tape::TapeNode& node : tape.nodes) {
    if (!tape::is_vjp_recorded(*node.node)) {
      return "double backward through " + node.node->name() + ", or through its hooks, may be wrong";
    }
    if (!tape::takes_dtype(*node.node, output.dtype())) {
      return "the graph mixes dtypes, which would round differently";
    }
  }
  return plain_obstacle(output, inputs);
}

bool is_finite(const at::Tensor& tensor) {
  return tensor.is_meta() || std::isfinite(tensor.detach().sum().item<double>());
}

std::optional<std::vector<at::Tensor>> compute_columns(
    const Endpoint& root,
    const torch::autograd::edge_list& inputs,
    const JacobianOptions& options,
    Progress& progress) {
  std::vector<at::Tensor> columns;
  try {
    const Linearization linear = linearize(root, inputs);
    const Endpoint cotangent = endpoint_of(linear.cotangent);
    for (const at::Tensor& product : linear.products) {
      if (!product.defined()) {
        columns.emplace_back();
        continue;
      }
      const Endpoint endpoint = endpoint_of(product);
      const tape::Tape tape = tape::read_tape(endpoint.edge, {cotangent.edge});
      if (!tape.inputs[0].is_on_tape()) {
        return std::nullopt;
      }
      JacobianBlock block(product, linear.cotangent, options.create_graph, std::nullopt);
      RowSweeps(endpoint, product.numel(), basis_of(product), tape, options, /*keep_graph=*/true)
          .run(
              {cotangent.edge},
              [&](int64_t count, std::vector<at::Tensor> rows) { block.append(count, std::move(rows[0])); },
              progress);
      columns.push_back(block.finish());
    }
  } catch (...) {
    const std::exception_ptr exception = std::current_exception();
    if (judge_failure(exception) != Failure::kOther) {
      std::rethrow_exception(exception);
    }
    return std::nullopt;
  }
  return columns;
}

} // namespace highgrad::engine
