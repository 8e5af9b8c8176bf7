#include "tape/tape.h"

#include <c10/util/flat_hash_map.h>
#include <c10/util/irange.h>

#include <algorithm>

namespace highgrad::tape {
namespace {

using torch::autograd::Edge;
using torch::autograd::edge_list;
using torch::autograd::InputMetadata;
using torch::autograd::Node;

constexpr int64_t kNone = -1;

struct Visit {
  Node* node;
  // Whether it lies on a path to an input; whether an input's cotangent arrives at it.
  bool on_path = false;
  bool is_input = false;

  bool takes_cotangents() const {
    return on_path || is_input;
  }
};

int64_t cotangent_bytes(const Node& node) {
  int64_t bytes = 0;
  for (const auto i : c10::irange(node.num_inputs())) {
    const InputMetadata& metadata = node.input_metadata(i);
    if (metadata.was_default_constructed() || metadata.is_nested_tensor()) {
      continue;
    }
    int64_t numel = 1;
    for (const c10::SymInt& size : metadata.shape_as_dim_vector()) {
      numel *= size.maybe_as_int().value_or(1);
    }
    bytes += numel * static_cast<int64_t>(metadata.dtype().itemsize());
  }
  return bytes;
}

bool is_strided(const Node& node, uint32_t input_nr) {
  if (input_nr >= node.num_inputs()) {
    return false;
  }
  const InputMetadata& metadata = node.input_metadata(input_nr);
  return !metadata.was_default_constructed() && !metadata.is_nested_tensor() &&
      metadata.options().layout() == at::kStrided;
}

// The walk: Nodes in post-order (children first) and the index of each.
struct Walk {
  std::vector<Visit> visits;
  ska::flat_hash_map<const Node*, int64_t> index;

  Walk() {
    // Of most tapes, at once.
    constexpr size_t kMostNodes = 64;
    index.reserve(kMostNodes);
    visits.reserve(kMostNodes);
  }

  // Calls on_edge(edge, visit of its far end) for every edge, once the far end is finished; a Node is on the path if
  // that says so of one of its edges. Without recursion, since tapes may be deep.
  template <typename OnEdge>
  void run(Node* root, OnEdge&& on_edge) {
    struct Frame {
      Node* node;
      size_t next_edge;
    };
    std::vector<Frame> stack;
    index.emplace(root, kNone);
    stack.push_back({root, 0});
    while (!stack.empty()) {
      Frame& frame = stack.back();
      const edge_list& edges = frame.node->next_edges();
      bool descended = false;
      while (frame.next_edge < edges.size()) {
        Node* child = edges[frame.next_edge].function.get();
        if (child != nullptr && index.emplace(child, kNone).second) {
          stack.push_back({child, 0});
          descended = true;
          break;
        }
        ++frame.next_edge;
      }
      if (descended) {
        continue;
      }
      Visit visit{stack.back().node};
      for (const Edge& edge : visit.node->next_edges()) {
        if (edge.function) {
          visit.on_path |= on_edge(edge, visits[index.at(edge.function.get())]);
        }
      }
      index[visit.node] = static_cast<int64_t>(visits.size());
      visits.push_back(visit);
      stack.pop_back();
    }
  }
};

// Simulates the sweep: a Node's cotangents live from the first Node that adds to them until it has run; an input's
// stay.
int64_t peak_live_bytes(const Tape& tape, const std::vector<bool>& is_input) {
  std::vector<bool> alive(tape.nodes.size(), false);
  int64_t live = tape.nodes.front().bytes;
  int64_t peak = live;
  alive.front() = true;
  for (const auto i : c10::irange(tape.nodes.size())) {
    const TapeNode& node = tape.nodes[i];
    if (!node.runs) {
      continue;
    }
    for (const Slot& target : links_of(tape, node)) {
      if (target.is_on_tape() && !alive[target.node]) {
        alive[target.node] = true;
        live += tape.nodes[target.node].bytes;
      }
    }
    peak = std::max(peak, live);
    if (!is_input[i]) {
      live -= node.bytes;
    }
  }
  return peak;
}

} // namespace

c10::ArrayRef<Slot> links_of(const Tape& tape, const TapeNode& node) {
  return {tape.links.data() + node.first_link, node.node->num_outputs()};
}

Tape read_tape(const Edge& output, const edge_list& inputs) {
  Tape tape;
  tape.inputs.resize(inputs.size());
  if (!output.is_valid()) {
    return tape;
  }
  // The inputs that each Node stands for, as a chain through next_input.
  ska::flat_hash_map<const Node*, int64_t> first_input;
  std::vector<int64_t> next_input(inputs.size(), kNone);
  for (const auto j : c10::irange(inputs.size())) {
    if (!inputs[j].is_valid()) {
      continue;
    }
    const auto [entry, is_new] = first_input.emplace(inputs[j].function.get(), static_cast<int64_t>(j));
    if (!is_new) {
      next_input[j] = entry->second;
      entry->second = static_cast<int64_t>(j);
    }
  }
  std::vector<bool> reached(inputs.size(), false);
  const auto mark_inputs = [&](const Edge& edge) {
    bool is_input = false;
    const auto entry = first_input.find(edge.function.get());
    for (int64_t j = entry == first_input.end() ? kNone : entry->second; j != kNone; j = next_input[j]) {
      if (inputs[j].input_nr == edge.input_nr) {
        reached[j] = true;
        is_input = true;
      }
    }
    return is_input;
  };

  Walk walk;
  walk.run(output.function.get(), [&](const Edge& edge, Visit& target) {
    target.is_input |= mark_inputs(edge);
    return target.takes_cotangents();
  });
  walk.visits.back().is_input |= mark_inputs(output);

  tape.nodes.reserve(walk.visits.size());
  // Positions on the tape: the reverse of the walk's order, without what leads to no input.
  std::vector<int32_t> position(walk.visits.size(), -1);
  std::vector<bool> is_input;
  for (auto i = static_cast<int64_t>(walk.visits.size()) - 1; i >= 0; --i) {
    const Visit& visit = walk.visits[i];
    if (visit.takes_cotangents()) {
      position[i] = static_cast<int32_t>(tape.nodes.size());
      tape.nodes.push_back({visit.node, 0, cotangent_bytes(*visit.node), visit.on_path});
      tape.bytes_per_row += tape.nodes.back().bytes;
      is_input.push_back(visit.is_input);
    }
  }
  const auto slot_of = [&](const Edge& edge) {
    return edge.function ? Slot{position[walk.index.at(edge.function.get())], edge.input_nr} : Slot{};
  };
  for (TapeNode& node : tape.nodes) {
    node.first_link = static_cast<int64_t>(tape.links.size());
    for (const Edge& edge : node.node->next_edges()) {
      tape.links.push_back(slot_of(edge));
    }
    if (node.runs) {
      const auto links = links_of(tape, node);
      const auto computes = [&](size_t k) { return links[k].is_on_tape(); };
      node.distrust = distrust_of(*node.node, computes);
      if (is_recorded_wrong(*node.node)) {
        node.distrust = std::max(node.distrust, Distrust::kGraph);
      }
      tape.distrust = std::max(tape.distrust, node.distrust);
    }
  }
  tape.output = slot_of(output);
  for (const auto j : c10::irange(inputs.size())) {
    if (reached[j]) {
      tape.inputs[j] = slot_of(inputs[j]);
    }
  }
  if (!tape.nodes.empty()) {
    tape.peak_bytes_per_row = peak_live_bytes(tape, is_input);
  }
  return tape;
}

bool is_tape_of(const Tape& tape, const Edge& output, const edge_list& inputs) {
  const auto is_at = [&](Slot slot, const Edge& edge) {
    return slot.is_on_tape() && tape.nodes[slot.node].node == edge.function.get() && slot.input_nr == edge.input_nr;
  };
  if (!is_at(tape.output, output) || tape.inputs.size() != inputs.size()) {
    return false;
  }
  for (const auto j : c10::irange(inputs.size())) {
    if (!is_at(tape.inputs[j], inputs[j])) {
      return false;
    }
  }
  return true;
}

std::optional<std::vector<int64_t>> shape_of(const Node& node, uint32_t input_nr) {
  if (!is_strided(node, input_nr)) {
    return std::nullopt;
  }
  const auto& sizes = node.input_metadata(input_nr).shape_as_dim_vector();
  std::vector<int64_t> shape;
  shape.reserve(sizes.size());
  for (const c10::SymInt& size : sizes) {
    const auto known = size.maybe_as_int();
    if (!known.has_value()) {
      return std::nullopt;
    }
    shape.push_back(*known);
  }
  return shape;
}

std::optional<int64_t> numel_of(const Node& node, uint32_t input_nr) {
  if (!is_strided(node, input_nr)) {
    return std::nullopt;
  }
  int64_t numel = 1;
  for (const c10::SymInt& size : node.input_metadata(input_nr).shape_as_dim_vector()) {
    const auto known = size.maybe_as_int();
    if (!known.has_value()) {
      return std::nullopt;
    }
    numel *= *known;
  }
  return numel;
}

bool takes_dtype(const Node& node, caffe2::TypeMeta dtype) {
  for (const auto i : c10::irange(node.num_inputs())) {
    const InputMetadata& metadata = node.input_metadata(i);
    if (!metadata.was_default_constructed() && metadata.dtype() != dtype) {
      return false;
    }
  }
  return true;
}

bool reaches_earlier_version(const Edge& output, const Edge& input, int64_t version) {
  if (!output.is_valid() || !input.is_valid() || version == 0) {
    return false;
  }
  Walk walk;
  walk.run(output.function.get(), [](const Edge&, const Visit&) { return false; });
  // An in-place operation puts one Node before the one that made its self, at most one for each version.
  Edge made_by = input;
  for (int64_t step = 0; step < version; ++step) {
    if (made_by.function->next_edges().empty() || !made_by.function->next_edge(0).is_valid()) {
      return false;
    }
    made_by = made_by.function->next_edge(0);
    const bool is_leaf = made_by.function->next_edges().empty();
    if (!is_leaf && walk.index.count(made_by.function.get()) > 0) {
      return true;
    }
  }
  return false;
}

} // namespace highgrad::tape
