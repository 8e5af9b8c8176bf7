#include "taylor/fusion.h"

#include <c10/core/ScalarType.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <set>
#include <utility>

#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using tape::Slot;
using tape::Tape;
using tape::TapeNode;
using torch::autograd::Node;

// Nodes of one function, at most: longer ones are no activations.
constexpr size_t kLongest = 32;

bool is_elementwise(const Rule& rule) {
  const auto* samples = rule.samples.target<bool (*)(const SamplesCall&)>();
  return samples != nullptr && *samples == &pointwise_samples;
}

class Finder {
 public:
  Finder(const Tape& tape, at::ScalarType dtype, bool is_recorded)
      : tape_(tape), dtype_(dtype), is_recorded_(is_recorded), uses_(tape.nodes.size(), 0) {
    uses_[tape.output.node] += 1;
    for (const TapeNode& node : tape.nodes) {
      if (node.runs) {
        for (const Slot& link : tape::links_of(tape, node)) {
          if (link.is_on_tape()) {
            uses_[link.node] += 1;
          }
        }
      }
    }
    for (const Slot& input : tape.inputs) {
      if (input.is_on_tape()) {
        uses_[input.node] += 1; // so that nothing hides it
      }
    }
  }

  // The function that ends at a Node, or null.
  std::shared_ptr<const FusedFunction> find(int64_t last) const {
    if (!is_eligible(last)) {
      return nullptr;
    }
    const std::vector<int64_t> shape = shape_of(*tape_.nodes[last].node, 0);
    std::set<int64_t> inside{last}, entries, frontier;
    std::map<int64_t, int64_t> uses_inside;
    const auto add_links = [&](int64_t i) {
      for (const Slot& link : tape::links_of(tape_, tape_.nodes[i])) {
        if (link.is_on_tape()) {
          uses_inside[link.node] += 1;
          frontier.insert(link.node);
        }
      }
    };
    add_links(last);
    // Each Node stands before those that it takes its inputs from: all that use it have been looked at.
    while (!frontier.empty() && entries.size() < 2) {
      const int64_t i = *frontier.begin();
      frontier.erase(frontier.begin());
      if (uses_inside[i] == uses_[i] && inside.size() < kLongest && is_eligible(i) &&
          shape_of(*tape_.nodes[i].node, 0) == shape) {
        inside.insert(i);
        add_links(i);
      } else {
        entries.insert(i);
      }
    }
    if (entries.size() != 1 || inside.size() < 2) {
      return nullptr;
    }
    return finish({inside.rbegin(), inside.rend()}, shape);
  }

 private:
  bool has_dtype(const Node& node, uint32_t input_nr) const {
    const auto& metadata = node.input_metadata(input_nr);
    return !metadata.was_default_constructed() && c10::typeMetaToScalarType(metadata.dtype()) == dtype_;
  }

  bool is_eligible(int64_t i) const {
    const TapeNode& entry = tape_.nodes[i];
    Node& node = *entry.node;
    if (!entry.runs || node.num_inputs() != 1 || !has_dtype(node, 0)) {
      return false;
    }
    const Rule* rule = find_rule(node);
    if (rule == nullptr || !is_elementwise(*rule)) {
      return false;
    }
    const auto links = tape::links_of(tape_, entry);
    for (const auto k : c10::irange(links.size())) {
      if (is_recorded_ && !links[k].is_on_tape() && node.next_edge(k).is_valid()) {
        return false;
      }
    }
    return true;
  }

  // nodes: each after those that it takes its inputs from.
  std::shared_ptr<const FusedFunction> finish(const std::vector<int64_t>& nodes, const std::vector<int64_t>& shape)
      const {
    auto function = std::make_shared<FusedFunction>();
    std::vector<int64_t> degrees{1};
    for (const auto n : c10::irange(nodes.size())) {
      const TapeNode& entry = tape_.nodes[nodes[n]];
      std::vector<int64_t> inputs, of_inputs;
      for (const Slot& link : tape::links_of(tape_, entry)) {
        const auto place = std::find(nodes.begin(), nodes.begin() + static_cast<int64_t>(n), link.node);
        int64_t input = -1;
        if (link.is_on_tape() && place != nodes.begin() + static_cast<int64_t>(n)) {
          input = place - nodes.begin() + 1;
        } else if (link.is_on_tape()) {
          if (function->base.is_on_tape() && function->base.input_nr != link.input_nr) {
            return nullptr;
          }
          function->base = link;
          input = 0;
        }
        inputs.push_back(input);
        of_inputs.push_back(input < 0 ? 0 : degrees[input]);
      }
      degrees.push_back(find_rule(*entry.node)->degree(*entry.node, of_inputs));
      function->nodes.emplace_back(entry.node->getptr(), 0);
      function->inputs.push_back(std::move(inputs));
    }
    const Node& base = *tape_.nodes[function->base.node].node;
    // What is linear is less work row by row.
    if (degrees.back() < 2 || !has_dtype(base, function->base.input_nr) ||
        shape_of(base, function->base.input_nr) != shape) {
      return nullptr;
    }
    return function;
  }

  const Tape& tape_;
  at::ScalarType dtype_;
  bool is_recorded_;
  std::vector<int64_t> uses_;
};

} // namespace

std::map<int64_t, std::shared_ptr<const FusedFunction>> find_fused_functions(
    const Tape& tape,
    at::ScalarType dtype,
    bool is_recorded) {
  std::map<int64_t, std::shared_ptr<const FusedFunction>> functions;
  if (!tape.output.is_on_tape()) {
    return functions;
  }
  const Finder finder(tape, dtype, is_recorded);
  std::vector<bool> is_needed(tape.nodes.size(), false);
  is_needed[tape.output.node] = true;
  for (const auto i : c10::irange(static_cast<int64_t>(tape.nodes.size()))) {
    if (!is_needed[i] || !tape.nodes[i].runs) {
      continue;
    }
    if (auto function = finder.find(i)) {
      is_needed[function->base.node] = true;
      functions[i] = std::move(function);
      continue;
    }
    for (const Slot& link : tape::links_of(tape, tape.nodes[i])) {
      if (link.is_on_tape()) {
        is_needed[link.node] = true;
      }
    }
  }
  return functions;
}

Jet apply_nodes(const FusedFunction& function, const Frame& frame, const Jet& x) {
  std::vector<Jet> jets{x};
  for (const auto n : c10::irange(function.nodes.size())) {
    std::vector<Jet> inputs;
    for (const int64_t input : function.inputs[n]) {
      inputs.push_back(input < 0 ? Jet{} : jets[input]);
    }
    jets.push_back(apply_rule(*function.nodes[n].function, frame, inputs).front());
  }
  return jets.back();
}

std::shared_ptr<const PointwiseFunction> as_pointwise(const FusedFunction& function) {
  return std::make_shared<const PointwiseFunction>(PointwiseFunction{[function](const Frame& frame, const Series& x) {
    return Series(frame, apply_nodes(function, frame, x.jet(frame)), at::Tensor());
  }});
}

} // namespace highgrad::taylor
