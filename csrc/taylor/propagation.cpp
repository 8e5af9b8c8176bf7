#include "taylor/propagation.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "taylor/fusion.h"
#include "taylor/recorded_composition.h"
#include "taylor/rule.h"

namespace highgrad::taylor {

using tape::Slot;
using tape::Tape;
using tape::TapeNode;
using torch::autograd::Edge;
using torch::autograd::Node;

namespace {

using FusedFunctions = std::map<int64_t, std::shared_ptr<const FusedFunction>>;

// What the jets of each Node are made of: those of nothing else are asked for.
class Dependencies {
 public:
  Dependencies(const Tape& tape, const FusedFunctions& fused)
      : tape_(tape), fused_(fused), uses_(tape.nodes.size(), 0) {
    uses_[tape.output.node] = 1;
    // Each Node stands before those that it takes its inputs from.
    for (const auto i : c10::irange(static_cast<int64_t>(tape.nodes.size()))) {
      change_uses(i, 1);
    }
  }

  bool is_needed(int64_t i) const {
    return tape_.nodes[i].runs && uses_[i] > 0;
  }

  // Once the jets of a Node are made: the Nodes whose jets nothing needs any more.
  std::vector<Node*> release(int64_t i) {
    change_uses(i, -1);
    std::vector<Node*> unused;
    for (const Slot& slot : of(i)) {
      if (slot.is_on_tape() && uses_[slot.node] == 0) {
        unused.push_back(tape_.nodes[slot.node].node);
      }
    }
    return unused;
  }

 private:
  c10::ArrayRef<Slot> of(int64_t i) const {
    const auto function = fused_.find(i);
    return function != fused_.end() ? c10::ArrayRef<Slot>(function->second->base)
                                    : tape::links_of(tape_, tape_.nodes[i]);
  }

  void change_uses(int64_t i, int64_t change) {
    if (is_needed(i)) {
      for (const Slot& slot : of(i)) {
        if (slot.is_on_tape()) {
          uses_[slot.node] += change;
        }
      }
    }
  }

  const Tape& tape_;
  const FusedFunctions& fused_;
  std::vector<int64_t> uses_;
};

} // namespace

Jet Propagation::run(const Tape& tape, Contraction* contraction) {
  if (!tape.output.is_on_tape()) {
    return {};
  }
  for (const auto j : c10::irange(tape.inputs.size())) {
    if (tape.inputs[j].is_on_tape() && directions_[j].defined()) {
      seed(tape, j);
    }
  }
  // Contracted jets are made Node by Node.
  const FusedFunctions fused =
      contraction == nullptr ? find_fused_functions(tape, frame_.dtype, at::GradMode::is_enabled()) : FusedFunctions();
  Dependencies dependencies(tape, fused);
  for (auto i = static_cast<int64_t>(tape.nodes.size()) - 1; i >= 0; --i) {
    const TapeNode& node = tape.nodes[i];
    if (!dependencies.is_needed(i)) {
      continue;
    }
    if (jets_.count(node.node) == 0) {
      const auto function = fused.find(i);
      std::vector<Jet> made = function == fused.end() ? apply(tape, node) : apply_fused(tape, *function->second);
      if (contraction != nullptr) {
        contraction->take_highest(*node.node, made);
      }
      jets_[node.node] = std::move(made);
    }
    for (const Node* unused : dependencies.release(i)) {
      if (!share_) {
        jets_.erase(unused);
      }
    }
  }
  return jet_at(tape, tape.output);
}

std::vector<Jet> Propagation::apply_fused(const Tape& tape, const FusedFunction& function) const {
  const Jet x = jet_at(tape, function.base);
  if (x.is_zero()) {
    return {};
  }
  Node& base = *tape.nodes[function.base.node].node;
  const auto& metadata = base.input_metadata(function.base.input_nr);
  const at::Tensor anchor = at::zeros({}, metadata.options()).expand(shape_of(base, function.base.input_nr));
  const Edge edge(base.getptr(), function.base.input_nr);
  const std::optional<Jet> composed = compose_function(frame_, x, anchor, edge, as_pointwise(function));
  return {composed.has_value() ? *composed : apply_nodes(function, frame_, x)};
}

void Propagation::seed(const Tape& tape, size_t j) {
  const Slot& slot = tape.inputs[j];
  Node* node = tape.nodes[slot.node].node;
  auto& seeded = seeds_[node];
  if (std::find(seeded.begin(), seeded.end(), j) != seeded.end()) {
    return;
  }
  seeded.push_back(j);
  auto& jets = jets_[node];
  jets.resize(std::max<size_t>(jets.size(), slot.input_nr + 1));
  jets[slot.input_nr] = add(frame_, jets[slot.input_nr], {directions_[j], 1});
}

Jet Propagation::jet_at(const Tape& tape, const Slot& slot) const {
  if (!slot.is_on_tape()) {
    return {};
  }
  const auto entry = jets_.find(tape.nodes[slot.node].node);
  return entry == jets_.end() || slot.input_nr >= entry->second.size() ? Jet{} : entry->second[slot.input_nr];
}

std::vector<Jet> Propagation::apply(const Tape& tape, const TapeNode& node) const {
  std::vector<Jet> inputs;
  bool is_zero = true;
  for (const Slot& link : tape::links_of(tape, node)) {
    inputs.push_back(jet_at(tape, link));
    is_zero = is_zero && inputs.back().is_zero();
  }
  if (is_zero) {
    return {};
  }
  return apply_rule(*node.node, frame_, inputs);
}

} // namespace highgrad::taylor
