#include "taylor/coefficients.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/eye.h>
#include <c10/core/ScalarType.h>
#include <c10/util/accumulate.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <typeindex>
#include <unordered_map>
#include <utility>

#include "structure/axes.h"
#include "tape/edges.h"
#include "tape/streams.h"
#include "tape/tape.h"
#include "taylor/contraction.h"
#include "taylor/monomials.h"
#include "taylor/propagation.h"
#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using tape::edge_of;
using tape::edges_of;
using tape::Slot;
using tape::Tape;
using tape::TapeNode;
using torch::autograd::edge_list;
using torch::autograd::Node;

bool is_same(const Slot& a, const Slot& b) {
  return a.node == b.node && a.input_nr == b.input_nr;
}

bool has_hooks(Node& node) {
  return !node.pre_hooks().empty() || !node.tensor_pre_hooks().empty() || !node.post_hooks().empty();
}

bool has_dependent_input(const Tape& tape) {
  return std::any_of(tape.inputs.begin(), tape.inputs.end(), [&](const Slot& input) {
    return input.is_on_tape() && tape.nodes[input.node].runs;
  });
}

// Why one Node of the tape is not a known function, or an empty string.
std::string node_obstacle(Node& node, bool runs) {
  if (has_hooks(node)) {
    return node.name() + " has a hook";
  }
  if (runs && find_rule(node) == nullptr) {
    return "there is no rule for " + node.name();
  }
  return "";
}

std::string find_obstacle(const Tape& tape, const at::Tensor& output) {
  if (output.key_set().has_any(
          c10::DispatchKeySet({c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::Python}))) {
    return "f is inside a torch.func transform, or of a tensor subclass";
  }
  if (has_dependent_input(tape)) {
    return "one wrt was computed from another";
  }
  for (const TapeNode& node : tape.nodes) {
    const std::string obstacle = node_obstacle(*node.node, node.runs);
    if (!obstacle.empty()) {
      return obstacle;
    }
    for (const auto k : c10::irange(node.node->num_inputs())) {
      const auto& metadata = node.node->input_metadata(k);
      if (!metadata.was_default_constructed() &&
          (metadata.is_nested_tensor() || isComplexType(c10::typeMetaToScalarType(metadata.dtype())))) {
        return node.node->name() + " makes a complex or nested tensor";
      }
    }
  }
  return "";
}

int64_t find_degree(const Tape& tape) {
  std::vector<int64_t> degrees(tape.nodes.size(), 0);
  const auto degree_of = [&](const Slot& slot) -> int64_t {
    if (!slot.is_on_tape()) {
      return 0;
    }
    const bool is_input =
        std::any_of(tape.inputs.begin(), tape.inputs.end(), [&](const Slot& input) { return is_same(input, slot); });
    return std::max<int64_t>(degrees[slot.node], is_input ? 1 : 0);
  };
  std::vector<int64_t> inputs;
  for (auto i = static_cast<int64_t>(tape.nodes.size()) - 1; i >= 0; --i) {
    const TapeNode& node = tape.nodes[i];
    if (!node_obstacle(*node.node, node.runs).empty()) {
      return kUnbounded;
    }
    if (!node.runs) {
      continue;
    }
    inputs.clear();
    for (const Slot& link : tape::links_of(tape, node)) {
      inputs.push_back(degree_of(link));
    }
    degrees[i] = find_rule(*node.node)->degree(*node.node, inputs);
  }
  return degree_of(tape.output);
}

// The highest order of derivatives of a Node that torch itself has, and has right.
int64_t nested_orders_of(const Node& node) {
  using namespace torch::autograd::generated;
  static const auto* table = new std::unordered_map<std::type_index, int64_t>{
      // The backward has no derivative.
      {typeid(CdistBackward0), 1},
      {typeid(PdistBackward0), 1},
      {typeid(ScaledDotProductEfficientAttentionBackward0), 1},
      {typeid(ScaledDotProductFlashAttentionBackward0), 1},
      {typeid(ScaledDotProductFlashAttentionForCpuBackward0), 1},
      // The second takes the saved norm for a constant, or logarithms of cotangents.
      {typeid(WeightNormInterfaceBackward0), 1},
      {typeid(LogcumsumexpBackward0), 1},
      // The third takes saved moments for constants.
      {typeid(NativeBatchNormBackward0), 2},
      {typeid(NativeGroupNormBackward0), 2},
      {typeid(NativeLayerNormBackward0), 2},
  };
  const auto row = table->find(typeid(node));
  return row == table->end() ? kUnbounded : row->second;
}

// The dtype that holds every tensor of the tape, at least float.
at::ScalarType widest_dtype(const Tape& tape, at::ScalarType dtype) {
  for (const TapeNode& node : tape.nodes) {
    for (const auto k : c10::irange(node.node->num_inputs())) {
      const auto& metadata = node.node->input_metadata(k);
      if (!metadata.was_default_constructed()) {
        const at::ScalarType found = c10::typeMetaToScalarType(metadata.dtype());
        dtype = c10::isFloatingType(found) ? c10::promoteTypes(dtype, found) : dtype;
      }
    }
  }
  return dtype;
}

at::Tensor finish(const Frame& frame, const Jet& jet, const at::Tensor& output) {
  if (jet.is_zero() || (frame.collapsed && jet.terms < frame.order)) {
    return {};
  }
  if (frame.collapsed) {
    return jet.rows.select(0, jet.rows.size(0) - 1);
  }
  if (!frame.counts.empty() || frame.is_multivariate()) {
    return padded(frame, jet, frame.order).rows;
  }
  std::vector<int64_t> shape{frame.order, frame.directions};
  shape.insert(shape.end(), output.sizes().begin(), output.sizes().end());
  return padded(frame, jet, frame.order).rows.reshape(shape);
}

// See Note [Samples].
bool keeps_runs_apart(const Tape& tape, int64_t count) {
  for (auto i = static_cast<int64_t>(tape.nodes.size()) - 1; i >= 0; --i) {
    Node& node = *tape.nodes[i].node;
    if (has_hooks(node)) {
      return false;
    }
    if (!tape.nodes[i].runs) {
      continue;
    }
    const Rule* rule = find_rule(node);
    if (rule == nullptr || !rule->samples) {
      return false;
    }
    std::vector<std::vector<int64_t>> shapes;
    std::vector<bool> depends;
    for (const Slot& link : tape::links_of(tape, tape.nodes[i])) {
      depends.push_back(link.is_on_tape());
      shapes.push_back(
          link.is_on_tape() ? shape_of(*tape.nodes[link.node].node, link.input_nr) : std::vector<int64_t>());
    }
    if (!rule->samples({node, count, shapes, depends, shape_of(node, 0)})) {
      return false;
    }
  }
  return true;
}

// By the axes that all Nodes leave alone, where samples do not lead: as those of an ensemble, behind its networks.
bool keeps_axes_apart(
    const Tape& tape,
    const at::Tensor& output,
    const std::vector<at::Tensor>& inputs,
    int64_t count) {
  const auto axes = structure::analyze_axes(tape, structure::Detail::kTies);
  if (!axes.has_value() || axes->not_linear != nullptr) {
    return false;
  }
  for (const auto j : c10::irange(inputs.size())) {
    if (tape.inputs[j].is_on_tape() &&
        !structure::keeps_samples_apart(
            axes->inputs[j].upper, count, output.numel() / count, inputs[j].numel() / count)) {
      return false;
    }
  }
  return true;
}

} // namespace

std::vector<Outlook> inspect(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs) {
  const edge_list edges = edges_of(inputs);
  std::vector<Outlook> outlooks;
  for (const at::Tensor& output : outputs) {
    const Tape tape = tape::read_tape(edge_of(output), edges);
    std::vector<bool> reaches;
    for (const Slot& input : tape.inputs) {
      reaches.push_back(input.is_on_tape());
    }
    const bool regular =
        !has_dependent_input(tape) && std::all_of(tape.nodes.begin(), tape.nodes.end(), [](const TapeNode& node) {
          return !has_hooks(*node.node) && !tape::is_custom(*node.node);
        });
    std::string obstacle = find_obstacle(tape, output);
    const bool contracting = obstacle.empty() && contracts(tape);
    int64_t nested_orders = kUnbounded;
    for (const TapeNode& node : tape.nodes) {
      if (node.runs) {
        nested_orders = std::min(nested_orders, nested_orders_of(*node.node));
      }
    }
    outlooks.push_back(
        {find_degree(tape),
         std::move(reaches),
         std::move(obstacle),
         regular,
         tape.peak_bytes_per_row,
         tape.bytes_per_row,
         contracting,
         nested_orders});
  }
  return outlooks;
}

bool keeps_samples_apart(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    int64_t count,
    bool everywhere) {
  const edge_list edges = edges_of(inputs);
  for (const at::Tensor& output : outputs) {
    const Tape tape = tape::read_tape(edge_of(output), edges);
    if (!keeps_runs_apart(tape, count) && (everywhere || !keeps_axes_apart(tape, output, inputs, count))) {
      return false;
    }
  }
  return true;
}

std::vector<at::Tensor> coefficients(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const std::vector<at::Tensor>& directions,
    const CoefficientOptions& options) {
  const edge_list edges = edges_of(inputs);
  std::vector<Tape> tapes;
  at::ScalarType dtype = options.in_double ? at::kDouble : at::kFloat;
  for (const at::Tensor& output : outputs) {
    tapes.push_back(tape::read_tape(edge_of(output), edges));
    const std::string obstacle = find_obstacle(tapes.back(), output);
    if (!obstacle.empty()) {
      throw Unsupported(obstacle);
    }
    dtype = widest_dtype(tapes.back(), dtype);
  }
  const tape::JoinedStreams streams(tapes);
  Frame frame{options.order, 0, dtype, options.collapsed && options.order > 1, {}};
  frame.counts = options.counts;
  if (!options.monomials.empty()) {
    frame.monomials = Monomials::some(options.monomials);
  }
  std::vector<at::Tensor> seeds;
  for (const auto j : c10::irange(directions.size())) {
    seeds.push_back(directions[j].defined() ? directions[j].to(dtype) : directions[j]);
    if (directions[j].defined()) {
      frame.directions = directions[j].size(0);
      TORCH_INTERNAL_ASSERT(directions[j].sizes().slice(1) == inputs[j].sizes());
    }
  }
  if (options.weights.defined()) {
    frame.weights = options.weights.to(dtype);
  }
  const at::AutoGradMode grad_mode(options.create_graph);
  Propagation propagation(frame, seeds, tapes.size() > 1);
  std::vector<at::Tensor> results;
  for (const auto i : c10::irange(outputs.size())) {
    results.push_back(finish(frame, propagation.run(tapes[i]), outputs[i]));
  }
  return results;
}

at::Tensor partials(
    const at::Tensor& output,
    const std::vector<at::Tensor>& inputs,
    int64_t batch_dims,
    int64_t order,
    bool contracted,
    bool create_graph) {
  const Tape tape = tape::read_tape(edge_of(output), edges_of(inputs));
  const std::string obstacle = find_obstacle(tape, output);
  if (!obstacle.empty()) {
    throw Unsupported(obstacle);
  }
  const tape::JoinedStreams streams(tape);
  const at::AutoGradMode grad_mode(create_graph);
  const at::IntArrayRef batch = output.sizes().slice(0, batch_dims);
  const int64_t samples = c10::multiply_integers(batch);
  int64_t variables = 0;
  for (const at::Tensor& input : inputs) {
    variables += c10::multiply_integers(input.sizes().slice(batch_dims));
  }
  Frame frame{order, variables, widest_dtype(tape, at::kFloat), false, {}, Monomials::all(variables), contracted};
  // The polynomial of order 1 of every element of an input is one of the variables.
  const at::Tensor eye = at::eye(variables, output.options().dtype(frame.dtype));
  std::vector<at::Tensor> seeds;
  int64_t first = 0;
  for (const at::Tensor& input : inputs) {
    const at::IntArrayRef rest = input.sizes().slice(batch_dims);
    const int64_t width = c10::multiply_integers(rest);
    c10::DimVector shape{variables};
    shape.append(batch_dims, 1);
    shape.append(rest.begin(), rest.end());
    const at::Tensor rows = eye.narrow(1, first, width).reshape(shape);
    shape.erase(shape.begin() + 1, shape.begin() + 1 + batch_dims);
    shape.insert(shape.begin() + 1, batch.begin(), batch.end());
    seeds.push_back(rows.expand(shape));
    first += width;
  }
  at::Tensor sums; // [samples, rest, monomials]
  if (contracted) {
    Contraction contraction(frame, tape, output, samples);
    Propagation(frame, seeds, false).run(tape, &contraction);
    sums = contraction.take();
  } else {
    const at::Tensor last = coefficient(frame, Propagation(frame, seeds, false).run(tape), order);
    if (last.defined()) {
      sums = last.reshape({last.size(0), samples, output.numel() / std::max<int64_t>(samples, 1)}).permute({1, 2, 0});
    }
  }
  if (!sums.defined()) {
    return {};
  }
  return sums * tape::copied_to(frame.monomials->factorials(order).to(sums.scalar_type()), sums.device());
}

} // namespace highgrad::taylor
