#include "taylor/propagation.h"

#include <c10/util/irange.h>

#include <algorithm>
#include <utility>

#include "taylor/rule.h"

namespace highgrad::taylor {

using tape::Slot;
using tape::Tape;
using tape::TapeNode;
using torch::autograd::Node;

namespace {

c10::ArrayRef<Slot> count_links(const Tape& tape, const TapeNode& node, std::vector<int64_t>& uses, int64_t change) {
  const auto links = tape::links_of(tape, node);
  for (const Slot& link : links) {
    if (link.is_on_tape()) {
      uses[link.node] += change;
    }
  }
  return links;
}

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
  std::vector<int64_t> uses(tape.nodes.size(), 0);
  uses[tape.output.node] += 1;
  for (const TapeNode& node : tape.nodes) {
    if (node.runs) {
      count_links(tape, node, uses, 1);
    }
  }
  for (auto i = static_cast<int64_t>(tape.nodes.size()) - 1; i >= 0; --i) {
    const TapeNode& node = tape.nodes[i];
    if (node.runs && jets_.count(node.node) == 0) {
      std::vector<Jet>& jets = jets_[node.node] = apply(tape, node);
      if (contraction != nullptr) {
        contraction->take_highest(*node.node, jets);
      }
    }
    if (node.runs && !share_) {
      for (const Slot& link : count_links(tape, node, uses, -1)) {
        if (link.is_on_tape() && uses[link.node] == 0) {
          jets_.erase(tape.nodes[link.node].node);
        }
      }
    }
  }
  return jet_at(tape, tape.output);
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
  const Call call{*node.node, frame_, inputs};
  std::vector<Jet> outputs = find_rule(*node.node)->apply(call);
  for (const auto k : c10::irange(outputs.size())) {
    Jet& jet = outputs[k];
    if (jet.terms == 0) {
      continue;
    }
    if (!frame_.counts.empty() && jet.rows.size(0) != frame_.rows(jet.terms)) {
      throw Unsupported(node.node->name() + " does not tell directions of different orders apart");
    }
    // An operation may broadcast a jet with what does not depend on wrt.
    std::vector<int64_t> shape = call.output_shape(k);
    shape.insert(shape.begin(), jet.rows.size(0));
    if (jet.rows.sizes() != at::IntArrayRef(shape)) {
      jet.rows = align(jet.rows, static_cast<int64_t>(shape.size()) - 1).expand(shape);
    }
  }
  return outputs;
}

} // namespace highgrad::taylor
