#include "engine/output_parts.h"

#include <ATen/ops/empty_strided.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "tape/node_rules.h"

namespace highgrad::engine {
namespace {

using namespace torch::autograd::generated;
using torch::autograd::Edge;
using torch::autograd::Node;
using Shape = std::vector<int64_t>;

// Whether the Node's only operand has the same elements in the same order.
bool keeps_order(const Node& node) {
  return dynamic_cast<const ViewBackward0*>(&node) != nullptr ||
      dynamic_cast<const UnsafeViewBackward0*>(&node) != nullptr ||
      dynamic_cast<const ReshapeAliasBackward0*>(&node) != nullptr ||
      dynamic_cast<const UnsqueezeBackward0*>(&node) != nullptr ||
      dynamic_cast<const SqueezeBackward1*>(&node) != nullptr;
}

// The shapes of what a Node joins along the first dimension; none if it is another Node.
std::vector<Shape> joined_shapes(const Node& node) {
  std::vector<Shape> shapes;
  if (const auto* stack = dynamic_cast<const StackBackward0*>(&node)) {
    const auto shape = tape::shape_of(node, 0);
    if (shape.has_value() && stack->dim == 0) {
      shapes.assign(stack->num_outputs(), Shape(shape->begin() + 1, shape->end()));
    }
  } else if (const auto* cat = dynamic_cast<const CatBackward0*>(&node)) {
    const auto shape = tape::shape_of(node, 0);
    const bool is_first = cat->dim == 0 || (shape.has_value() && cat->dim == -static_cast<int64_t>(shape->size()));
    for (const auto& sizes : cat->tensors_args_sizes_symint) {
      if (!is_first || !shape.has_value()) {
        return {};
      }
      Shape& joined = shapes.emplace_back();
      for (const c10::SymInt& size : sizes) {
        const auto number = size.maybe_as_int();
        if (!number.has_value()) {
          return {};
        }
        joined.push_back(*number);
      }
    }
  }
  return shapes;
}

// A tensor that is joined with others.
struct Joined {
  Edge edge; // invalid where it reaches no input
  Shape shape;
};

// Appends what the tensor at `slot` joins, and what these join; or what it flattens, whose first dimension may be
// samples. Returns false where it does neither.
bool append_joined(const OutputProblem& problem, tape::Slot slot, std::vector<Joined>& all) {
  const tape::Tape& tape = problem.tape;
  const auto dtype = problem.output.dtype();
  const auto has_dtype = [&](tape::Slot at) {
    return tape.nodes[at.node].node->input_metadata(at.input_nr).dtype() == dtype;
  };
  const auto is_input = [&](tape::Slot at) {
    return std::any_of(
        problem.slots.begin(), problem.slots.end(), [&](tape::Slot input) { return input.node == at.node; });
  };
  std::optional<Joined> flattened;
  while (tape.nodes[slot.node].runs && has_dtype(slot) && !is_input(slot) &&
         tape::is_vjp_linear(*tape.nodes[slot.node].node)) {
    const tape::TapeNode& joining = tape.nodes[slot.node];
    const Node& node = *joining.node;
    const auto links = tape::links_of(tape, joining);
    if (keeps_order(node)) {
      const auto shape = tape::shape_of(node, 0);
      slot = links[0];
      auto before = tape::shape_of(*tape.nodes[slot.node].node, slot.input_nr);
      if (shape.has_value() && before.has_value() && before->size() > shape->size() && has_dtype(slot)) {
        flattened = Joined{node.next_edge(0), std::move(*before)};
      }
      continue;
    }
    const std::vector<Shape> shapes = joined_shapes(node);
    const bool is_cast =
        std::any_of(links.begin(), links.end(), [&](tape::Slot link) { return link.is_on_tape() && !has_dtype(link); });
    if (shapes.size() < 2 || shapes.size() != links.size() || is_cast) {
      break;
    }
    for (const auto k : c10::irange(links.size())) {
      const bool is_on_tape = links[k].is_on_tape();
      if (!is_on_tape || !append_joined(problem, links[k], all)) {
        all.push_back({is_on_tape ? node.next_edge(k) : Edge(), shapes[k]});
      }
    }
    return true;
  }
  if (flattened.has_value()) {
    all.push_back(std::move(*flattened));
  }
  return flattened.has_value();
}

at::Tensor without_values(const Edge& edge, const Shape& shape, const at::TensorOptions& options) {
  const at::Tensor tensor = at::empty_strided(shape, Shape(shape.size(), 0), options);
  if (edge.is_valid()) {
    torch::autograd::impl::set_gradient_edge(tensor, edge);
  }
  return tensor;
}

} // namespace

OutputPart::OutputPart(const OutputProblem& whole, const Edge& edge, const Shape& shape)
    : output_(without_values(edge, shape, whole.output.options())),
      tape_(tape::read_tape(edge, whole.edges)),
      reached_(output_, tape_, whole.inputs, whole.edges) {}

OutputProblem OutputPart::problem() const {
  return {output_, tape_, reached_.inputs, reached_.edges, reached_.slots};
}

std::vector<OutputPart> parts_of(const OutputProblem& problem, int64_t most) {
  std::vector<Joined> all;
  if (most < 1 || !problem.tape.output.is_on_tape() || !append_joined(problem, problem.tape.output, all)) {
    return {};
  }
  const bool any_has_samples = std::any_of(
      all.begin(), all.end(), [](const Joined& joined) { return !joined.shape.empty() && joined.shape[0] > 1; });
  if (!any_has_samples || static_cast<int64_t>(all.size()) > most) {
    return {};
  }
  std::vector<OutputPart> parts;
  for (const Joined& joined : all) {
    parts.emplace_back(problem, joined.edge, joined.shape);
  }
  return parts;
}

} // namespace highgrad::engine
