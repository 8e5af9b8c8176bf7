#include "engine/forward_mode.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <torch/csrc/autograd/anomaly_mode.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <utility>

#include "engine/double_backward_jvp.h"
#include "engine/failure.h"
#include "engine/jacobian_block.h"
#include "engine/rounding.h"
#include "engine/sweeps.h"
#include "engine/without_pattern.h"
#include "structure/node_table.h"
#include "tape/plain_tensor.h"
#include "tape/streams.h"

namespace highgrad::engine {
namespace {

// How far sums of columns may be from what they should be: far more than roundings, far less than a missing term.
constexpr double kRoundings = 1e4;

// Note [Checking columns]
// torch's double backward of some Nodes lacks a term, without an error. But the recorded product g(u) is plain reverse
// mode: if the columns are right, their sums weighted by u are g(u). So Nodes that are not in structure's table are
// recorded for a u without a pattern, and the columns checked. (R. Freivalds, "Probabilistic machines can use less
// running time", 1977.)
bool are_sums_of(const at::Tensor& product, const at::Tensor& columns, const at::Tensor& cotangent) {
  const at::NoGradGuard no_grad;
  if (product.is_meta()) {
    return true;
  }
  const at::Tensor sums = columns.reshape({product.numel(), cotangent.numel()}).mv(cotangent.reshape({-1}));
  const at::Tensor expected = product.reshape({-1});
  const double tolerance = kRoundings * epsilon_of(product.scalar_type());
  const auto norm = [](const at::Tensor& tensor) { return tensor.norm().item<double>(); };
  return norm(sums.sub(expected)) <= tolerance * (norm(sums) + norm(expected));
}

// Solvers and decompositions of matrices may lose NaN, and are known: their formulas are made of operators that can be
// differentiated again.
bool is_known(const tape::Tape& tape) {
  return std::all_of(tape.nodes.begin(), tape.nodes.end(), [](const tape::TapeNode& entry) {
    const auto facts = entry.runs ? structure::facts_of(*entry.node) : structure::NodeFacts();
    return facts.has_value() && (facts->keeps_nan || facts->flow == structure::Flow::kMatrices);
  });
}

} // namespace

std::string plain_obstacle(const at::Tensor& output, const std::vector<at::Tensor>& inputs) {
  if (torch::autograd::AnomalyMode::is_enabled()) {
    return "anomaly mode is on";
  }
  if (!tape::is_plain(output)) {
    return "f is inside a torch.func transform, or of a tensor subclass";
  }
  if (tape::is_captured(output.device())) {
    return "a CUDA graph is being captured, in which nothing can be read";
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

void warn_of_reverse_mode(const JacobianOptions& options, const std::string& obstacle) {
  warn(options, "mode=\"forward\" cannot be used, and reverse mode is: " + obstacle);
}

bool is_finite(const at::Tensor& tensor) {
  return tensor.is_meta() || std::isfinite(tensor.detach().sum().item<double>());
}

std::optional<std::vector<at::Tensor>> compute_columns(
    const Endpoint& root,
    const torch::autograd::edge_list& inputs,
    const JacobianOptions& options,
    Progress& progress,
    int64_t batch_dims) {
  const bool is_trusted = is_known(tape::read_tape(root.edge, inputs));
  if (!is_trusted && (options.create_graph || batch_dims > 0)) {
    return std::nullopt; // what is recorded of the double backward may not be differentiable again
  }
  std::vector<at::Tensor> columns;
  try {
    const Linearization linear = linearize(
        root,
        inputs,
        is_trusted ? at::ones(root.like.sizes(), root.like.options())
                   : numbers_without_pattern(root.like.numel(), root.like.options()).view(root.like.sizes()));
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
      const at::Tensor rest = like_one_sample(product, batch_dims);
      JacobianBlock block(rest, linear.cotangent, options.create_graph, std::nullopt);
      RowSweeps(endpoint, rest.numel(), basis_of(product, batch_dims), tape, options, /*keep_graph=*/true)
          .run(
              {cotangent.edge},
              [&](int64_t count, std::vector<at::Tensor> rows) { block.append(count, std::move(rows[0])); },
              progress);
      columns.push_back(block.finish());
      if (!is_trusted && !are_sums_of(product, columns.back(), linear.cotangent)) {
        return std::nullopt;
      }
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
