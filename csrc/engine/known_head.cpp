#include "engine/known_head.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>

#include "engine/batched_vjp.h"
#include "structure/node_table.h"
#include "tape/node_rules.h"
#include "tape/plain_tensor.h"

namespace highgrad::engine {
namespace {

using namespace torch::autograd::generated;
using tape::Slot;
using tape::Tape;
using torch::autograd::Node;

// The one link of the Node that is on the tape, by its number; none if there are several.
std::optional<size_t> only_link(const Tape& tape, Slot slot) {
  const auto links = links_of(tape, tape.nodes[slot.node]);
  std::optional<size_t> found;
  for (size_t k = 0; k < links.size(); ++k) {
    if (links[k].is_on_tape()) {
      if (found.has_value()) {
        return std::nullopt;
      }
      found = k;
    }
  }
  return found;
}

// The Jacobian of a matrix product's vector by its other vector, link `operand`: [rows, columns]; undefined for any
// other Node, and where a matrix takes the vector's place.
at::Tensor weight_of(Node& node, size_t operand) {
  const auto is_row = [&] { return tape::shape_of(node, 0).value_or(std::vector<int64_t>{0}).front() == 1; };
  const auto self = node.getptr();
  if (auto* mm = dynamic_cast<MmBackward0*>(&node);
      mm != nullptr && operand == 0 && is_row() && !mm->mat2_.has_hooks()) {
    return mm->mat2_.unpack(self).t();
  }
  if (auto* addmm = dynamic_cast<AddmmBackward0*>(&node);
      addmm != nullptr && operand == 1 && is_row() && !addmm->mat2_.has_hooks()) {
    const at::Tensor weight = addmm->mat2_.unpack(self).t();
    return addmm->alpha.equal(1) ? weight : at::mul(weight, addmm->alpha);
  }
  if (auto* mv = dynamic_cast<MvBackward0*>(&node); mv != nullptr && operand == 1 && !mv->self_.has_hooks()) {
    return mv->self_.unpack(self);
  }
  if (auto* addmv = dynamic_cast<AddmvBackward0*>(&node);
      addmv != nullptr && operand == 2 && !addmv->mat_.has_hooks()) {
    const at::Tensor weight = addmv->mat_.unpack(self);
    return addmv->alpha.equal(1) ? weight : at::mul(weight, addmv->alpha);
  }
  return {};
}

} // namespace

std::optional<KnownHead> find_known_head(const Endpoint& root, const Tape& tape, bool create_graph) {
  if (root.like.numel() < 2 || !tape::is_plain(root.like) || torch::autograd::AnomalyMode::is_enabled()) {
    return std::nullopt;
  }
  // Down the tape while it does not branch: views keep the rows' order, elementwise Nodes scale them.
  const auto is_input = [&](Slot slot) {
    return std::find(tape.inputs.begin(), tape.inputs.end(), slot) != tape.inputs.end();
  };
  bool is_scaled = false;
  Slot slot = tape.output;
  std::optional<size_t> operand;
  at::Tensor weight;
  while (!is_input(slot) && (operand = only_link(tape, slot)).has_value()) {
    Node& node = *tape.nodes[slot.node].node;
    if (node.num_inputs() != 1 || !tape::takes_dtype(node, root.like.dtype()) || !tape::is_vjp_linear(node)) {
      return std::nullopt;
    }
    if ((weight = weight_of(node, *operand)).defined()) {
      break;
    }
    const std::optional<structure::NodeFacts> facts = structure::facts_of(node);
    const Slot next = links_of(tape, tape.nodes[slot.node])[*operand];
    const bool is_flat = facts.has_value() && facts->flow == structure::Flow::kFlat;
    const bool is_elementwise = facts.has_value() && facts->flow == structure::Flow::kPointwise &&
        tape::shape_of(node, 0) == tape::shape_of(*tape.nodes[next.node].node, next.input_nr);
    if (!is_flat && !is_elementwise) {
      return std::nullopt;
    }
    is_scaled |= is_elementwise;
    slot = next;
  }
  // What is not torch's own may write to the cotangents that it is handed, and these are weights.
  if (!weight.defined() || weight.scalar_type() != root.like.scalar_type() || weight.layout() != at::kStrided ||
      !std::all_of(tape.nodes.begin(), tape.nodes.end(), [](const tape::TapeNode& node) {
        return tape::is_vjp_linear(*node.node);
      })) {
    return std::nullopt;
  }
  const Slot below = links_of(tape, tape.nodes[slot.node])[*operand];
  KnownHead head{endpoint_of(tape, below), create_graph ? weight : weight.detach()};
  if (is_scaled) {
    if (!root.like.device().is_cpu()) {
      return std::nullopt; // to wait for the device takes longer
    }
    const torch::autograd::Edge edge{tape.nodes[slot.node].node->getptr(), slot.input_nr};
    const at::Tensor scale = single_vjp(
        {root.edge},
        {at::ones(root.like.sizes(), root.like.options())},
        {edge},
        {/*keep_graph=*/true, create_graph})[0];
    // With the identity's zeros, infinity would give NaN: that is for the plain sweep.
    if (!scale.defined() || !at::isfinite(scale.detach()).all().item<bool>()) {
      return std::nullopt;
    }
    head.rows = head.rows * scale.reshape({-1, 1});
  }
  std::vector<int64_t> shape{root.like.numel()};
  shape.insert(shape.end(), head.below.like.sizes().begin(), head.below.like.sizes().end());
  head.rows = head.rows.reshape(shape);
  return head;
}

} // namespace highgrad::engine
