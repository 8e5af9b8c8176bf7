#include "engine/linear_map.h"

#include <ATen/ops/ones.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <exception>

#include "engine/double_backward_jvp.h"
#include "engine/failure.h"
#include "engine/forward_mode.h"
#include "structure/axes.h"

namespace highgrad::engine {

torch::autograd::edge_list LinearMap::root_edges() const {
  torch::autograd::edge_list found;
  for (const at::Tensor& root : roots) {
    if (root.defined()) {
      found.push_back(torch::autograd::impl::gradient_edge(root));
    }
  }
  return found;
}

at::TensorOptions LinearMap::options() const {
  return std::find_if(roots.begin(), roots.end(), [](const at::Tensor& root) { return root.defined(); })->options();
}

std::optional<vjp::Program> compile(const LinearMap& map) {
  const torch::autograd::edge_list roots = map.root_edges();
  return roots.size() == 1 ? vjp::Program::compile(tape::read_tape(roots[0], map.edges)) : std::nullopt;
}

LinearMap reverse_map(const OutputProblem& problem) {
  LinearMap map{
      {problem.output},
      {problem.output.numel()},
      problem.edges,
      {},
      problem.tape.peak_bytes_per_row,
      problem.tape.distrust,
      &problem.tape};
  for (const at::Tensor& input : problem.inputs) {
    map.columns.push_back(input.numel());
  }
  return map;
}

std::optional<ForwardMap> forward_map(const OutputProblem& problem) {
  if (!forward_obstacle(problem.output, problem.tape, problem.inputs).empty()) {
    return std::nullopt;
  }
  Linearization linear;
  try {
    const at::Tensor ones = at::ones(problem.output.sizes(), problem.output.options());
    linear = linearize(endpoint_of(problem.output), problem.edges, ones);
  } catch (...) {
    const std::exception_ptr exception = std::current_exception();
    if (judge_failure(exception) != Failure::kOther) {
      std::rethrow_exception(exception);
    }
    return std::nullopt;
  }
  ForwardMap forward;
  forward.cotangent = linear.cotangent;
  forward.map.edges = {torch::autograd::impl::gradient_edge(linear.cotangent)};
  forward.map.columns = {problem.output.numel()};
  for (size_t j = 0; j < problem.inputs.size(); ++j) {
    forward.map.rows.push_back(problem.inputs[j].numel());
    forward.map.roots.push_back(linear.products[j]);
    if (!linear.products[j].defined()) {
      continue;
    }
    if (!linear.products[j].requires_grad()) {
      return std::nullopt;
    }
    const tape::Tape& tape = forward.tapes.emplace_back(
        tape::read_tape(torch::autograd::impl::gradient_edge(linear.products[j]), forward.map.edges));
    const auto axes = structure::analyze_axes(tape);
    if (!tape.inputs[0].is_on_tape()) {
      return std::nullopt;
    }
    forward.map.peak_bytes_per_row += tape.peak_bytes_per_row;
    forward.map.distrust = std::max(forward.map.distrust, tape.distrust);
    forward.keeps_nan &= axes.has_value() && axes->keeps_nan;
    forward.is_global &= axes.has_value() && axes->is_global;
  }
  if (forward.map.root_edges().empty() || forward.map.distrust == tape::Distrust::kValues) {
    return std::nullopt;
  }
  forward.map.tape = forward.tapes.size() == 1 ? forward.tapes.data() : nullptr;
  return forward;
}

} // namespace highgrad::engine
