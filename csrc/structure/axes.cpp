#include "structure/axes.h"

#include <algorithm>
#include <functional>
#include <string_view>
#include <typeinfo>
#include <utility>

#include "structure/axis_flow.h"
#include "tape/signature.h"
#include "tape/slot_numbers.h"

namespace highgrad::structure {
namespace {

using tape::Hash;
using tape::Slot;
using tape::Tape;
using tape::TapeNode;
using torch::autograd::Node;

bool are_free(const Digits& digits) {
  return std::all_of(digits.begin(), digits.end(), [](const Digit& digit) { return digit.is_free(); });
}

// Windows that have most of their axis cost more to follow than they may save.
bool is_wide(const Digit& digit) {
  if (digit.window == nullptr) {
    return false;
  }
  int64_t count = 0;
  for (const Arc& arc : digit.window->arcs) {
    count += arc.count;
  }
  return 4 * count > 3 * digit.window->size * digit.size;
}

struct State {
  bool is_reached = false;
  bool is_free = false; // nothing is tied above, and nothing will be
  // Whether all ties are free, and their digits are left out until they are asked for.
  bool is_short = false;
  Ties ties;

  bool has_free_lower() const {
    return ties.lower.has_value() && are_free(*ties.lower);
  }
};

Ties free_ties(int64_t numel, bool has_lower) {
  return {all_free(numel), has_lower ? std::optional(all_free(numel)) : std::nullopt};
}

void join(State& state, Ties&& ties) {
  if (!state.is_reached) {
    const bool is_free = are_free(ties.upper);
    state = {true, is_free, false, std::move(ties)};
    return;
  }
  if (state.is_short) {
    if (ties.lower.has_value() && are_free(*ties.lower)) {
      state.ties.lower = Digits{};
    }
    return;
  }
  if (!state.is_free) {
    state.ties.upper = common_ties(state.ties.upper, ties.upper);
    state.is_free = are_free(state.ties.upper);
  }
  auto& lower = state.ties.lower;
  if (!lower.has_value() || (ties.lower.has_value() && tied_size(*ties.lower) < tied_size(*lower))) {
    lower = std::move(ties.lower);
  }
}

// Walks along a tape and keeps the ties of every slot.
class Walk {
 public:
  // Of so many positions of windows.
  Walk(const Tape& tape, Detail detail, int64_t positions)
      : tape_(tape), detail_(detail), positions_(positions), number_of_(tape), states_(number_of_.size()) {}

  // The whole tape; false for a shape that is unknown or empty. on_step(position) is called after each Node.
  // follows(position): whether ties are followed through the Node, before which all is known of what it takes; what is
  // behind others is free.
  template <typename OnStep, typename Follows>
  bool run(OnStep&& on_step, Follows&& follows) {
    const auto shape = known_shape(*tape_.nodes[tape_.output.node].node, tape_.output.input_nr);
    if (!shape.has_value()) {
      return false;
    }
    const int64_t numel = numel_of(*shape);
    const Digits itself = numel == 1 ? Digits{} : Digits{{numel, 1}};
    join(at(tape_.output), {itself, itself});
    for (size_t position = 0; position < tape_.nodes.size(); ++position) {
      if (!tape_.nodes[position].runs) {
        // An input that only takes its cotangent may have hooks, too.
        if (!may_be_input(*tape_.nodes[position].node)) {
          note_not_linear(*tape_.nodes[position].node);
        }
        continue;
      }
      if (!follows(position)) {
        free_behind(position);
        continue;
      }
      if (!step(position)) {
        return false;
      }
      on_step(position);
    }
    return true;
  }

  template <typename OnStep>
  bool run(OnStep&& on_step) {
    return run(on_step, [](size_t) { return true; });
  }

  const State& state_of(Slot slot) const {
    return states_[number_of_(slot)];
  }

  // Whether all Nodes are, once run.
  bool is_linear() const {
    return analysis_.not_linear == nullptr;
  }

  // What was found, once run.
  AxisAnalysis take_analysis() {
    for (const Slot& input : tape_.inputs) {
      Ties ties = input.is_on_tape() ? state_of(input).ties : Ties{};
      if (input.is_on_tape() && state_of(input).is_short) {
        const auto numel = tape::numel_of(*tape_.nodes[input.node].node, input.input_nr);
        ties = free_ties(numel.value_or(0), ties.lower.has_value());
      }
      analysis_.inputs.push_back(std::move(ties));
      hash_.add(input);
    }
    analysis_.signature = hash_.value();
    return std::move(analysis_);
  }

 private:
  State& at(Slot slot) {
    return states_[number_of_(slot)];
  }

  static bool may_be_input(Node& node) {
    return node.pre_hooks().empty() && node.tensor_pre_hooks().empty();
  }

  void note_not_linear(Node& node) {
    analysis_.is_known = false;
    analysis_.keeps_nan = false;
    analysis_.not_linear = analysis_.not_linear == nullptr ? &node : analysis_.not_linear;
  }

  void free_behind(size_t position) {
    Node& node = *tape_.nodes[position].node;
    if (!tape::is_vjp_linear(node)) {
      note_not_linear(node);
    }
    for (const Slot& link : tape::links_of(tape_, tape_.nodes[position])) {
      if (link.is_on_tape()) {
        at(link) = {true, true, true, {}};
      }
    }
  }

  // Where nothing of a Node's slots is tied, nothing is of what these depend on. False if something is, or if shapes
  // are not known, or there are no elements.
  bool hand_on_freely(size_t position, const std::optional<NodeFacts>& facts, c10::ArrayRef<Slot> links) {
    const Node& node = *tape_.nodes[position].node;
    bool has_lower = false;
    for (uint32_t nr = 0; nr < node.num_inputs(); ++nr) {
      const State& state = states_[number_of_(position, nr)];
      if (state.is_reached && (!state.is_free || tape::numel_of(node, nr).value_or(0) == 0)) {
        return false;
      }
      has_lower |= state.is_reached && state.has_free_lower();
    }
    has_lower &= facts.has_value() && facts->is_full;
    for (const Slot& link : links) {
      const int64_t numel =
          link.is_on_tape() ? tape::numel_of(*tape_.nodes[link.node].node, link.input_nr).value_or(0) : 1;
      if (numel == 0) {
        return false;
      }
    }
    for (const Slot& link : links) {
      if (!link.is_on_tape()) {
        continue;
      }
      State& target = at(link);
      if (target.is_reached && !target.is_free) {
        join(target, free_ties(*tape::numel_of(*tape_.nodes[link.node].node, link.input_nr), has_lower));
      } else {
        // Digits come when they are asked for.
        const bool is_lower = has_lower || (target.is_reached && target.has_free_lower());
        target = {true, true, true, {{}, is_lower ? std::optional(Digits{}) : std::nullopt}};
      }
    }
    return true;
  }

  // Of those that are not worth following, or too much.
  void free_windows(Ties& ties) {
    for (Digit& digit : ties.upper) {
      if (digit.window == nullptr) {
        continue;
      }
      positions_ -= digit.size;
      if (positions_ < 0) {
        ties.lower.reset();
      }
      if (positions_ < 0 || is_wide(digit)) {
        digit = {digit.size};
      }
    }
  }

  // Hands the ties of a Node's slots on.
  bool step(size_t position) {
    Node& node = *tape_.nodes[position].node;
    if (!tape::is_vjp_linear(node)) {
      note_not_linear(node);
    }
    const std::optional<NodeFacts> facts = facts_of(node);
    analysis_.is_known &= facts.has_value();
    analysis_.keeps_nan &= facts.has_value() && facts->keeps_nan;
    analysis_.loses_nan |= facts.has_value() && !facts->keeps_nan;
    analysis_.is_global &= facts.has_value() && facts->is_global;
    const auto links = tape::links_of(tape_, tape_.nodes[position]);
    if (detail_ == Detail::kTies && hand_on_freely(position, facts, links)) {
      return true;
    }
    std::vector<std::optional<Shape>> ins(links.size());
    int64_t in_rank = -1;
    for (size_t k = 0; k < links.size(); ++k) {
      if (links[k].is_on_tape()) {
        ins[k] = known_shape(*tape_.nodes[links[k].node].node, links[k].input_nr);
        if (!ins[k].has_value()) {
          return false;
        }
        in_rank = in_rank < 0 ? static_cast<int64_t>(ins[k]->size()) : in_rank;
        if (detail_ != Detail::kTies) {
          hash_.add(static_cast<int64_t>(k));
          hash_.add(links[k]);
          hash_.add(*ins[k]);
        }
      }
    }
    if (detail_ != Detail::kTies) {
      hash_.add(static_cast<int64_t>(std::hash<std::string_view>()(typeid(node).name())));
    }
    std::optional<NodeAttributes> attributes;
    bool is_first = true;
    for (uint32_t nr = 0; nr < node.num_inputs(); ++nr) {
      State state = states_[number_of_(position, nr)];
      if (!state.is_reached) {
        continue;
      }
      const auto out = known_shape(node, nr);
      if (!out.has_value()) {
        return false;
      }
      if (state.is_short) {
        state.ties = free_ties(numel_of(*out), state.ties.lower.has_value());
      }
      if (detail_ != Detail::kTies) {
        hash_.add(nr);
        hash_.add(*out);
      }
      if (is_first && facts.has_value()) {
        attributes = attributes_of(node, in_rank, static_cast<int64_t>(out->size()));
        if (attributes.has_value() && detail_ != Detail::kTies) {
          hash_.add(attributes->dims);
          hash_.add(attributes->others);
          analysis_.indices.insert(analysis_.indices.end(), attributes->indices.begin(), attributes->indices.end());
          for (const Slide& slide : attributes->slides) {
            hash_.add({static_cast<int64_t>(slide.kind), slide.kernel, slide.stride, slide.padding, slide.dilation});
          }
        }
        analysis_.is_global &= attributes.has_value();
      }
      is_first = false;
      for (size_t k = 0; k < links.size(); ++k) {
        if (!links[k].is_on_tape()) {
          continue;
        }
        if (detail_ == Detail::kSignature) {
          at(links[k]).is_reached = true;
          continue;
        }
        if (!facts.has_value() || !attributes.has_value()) {
          join(at(links[k]), {all_free(numel_of(*ins[k])), std::nullopt});
          continue;
        }
        const auto flow = [&](const Digits& digits) {
          return flow_through(facts->flow, *attributes, nr, k, links.size(), *out, *ins[k], digits);
        };
        Ties ties{flow(state.ties.upper), std::nullopt};
        if (facts->is_full && state.ties.lower.has_value()) {
          ties.lower = flow(*state.ties.lower);
        }
        State& target = at(links[k]);
        join(target, std::move(ties));
        if (detail_ == Detail::kTies && !target.is_free) {
          free_windows(target.ties);
          target.is_free = are_free(target.ties.upper);
        }
      }
    }
    return true;
  }

  const Tape& tape_;
  const Detail detail_;
  int64_t positions_; // that are left
  const tape::SlotNumbers number_of_;
  std::vector<State> states_;
  AxisAnalysis analysis_;
  Hash hash_;
};

} // namespace

std::optional<Shape> known_shape(const Node& node, uint32_t input_nr) {
  auto shape = tape::shape_of(node, input_nr);
  return shape.has_value() && numel_of(*shape) == 0 ? std::nullopt : shape;
}

std::optional<AxisAnalysis> analyze_axes(const Tape& tape, Detail detail, int64_t positions) {
  Walk walk(tape, detail, positions);
  if (tape.nodes.empty() || !tape.output.is_on_tape() || !walk.run([](size_t) {})) {
    return std::nullopt;
  }
  return walk.take_analysis();
}

namespace {

bool are_samples(const Digits& axis, int64_t samples, int64_t rest) {
  return axis.size() == 1 && axis[0].is_equal() && axis[0].size == samples && axis[0].stride == rest;
}

} // namespace

bool keeps_samples_apart(const Digits& digits, int64_t samples, int64_t rest, int64_t own) {
  return samples == 1 || are_samples(split_by_axis(digits, {samples, own})[0], samples, rest);
}

std::optional<int64_t> runs_of_samples(const Digits& digits, int64_t samples, int64_t rest, int64_t own) {
  if (keeps_samples_apart(digits, samples, rest, own)) {
    return 1;
  }
  int64_t runs = 1;
  for (const Digit& digit : digits) {
    runs *= digit.size;
    if (own % runs != 0) {
      break;
    }
    if (are_samples(split_by_axis(digits, {runs, samples, own / runs})[1], samples, rest)) {
      return runs;
    }
  }
  return std::nullopt;
}

std::optional<TapeSamples> samples_of_tape(const Tape& tape, int64_t samples, int64_t rest) {
  // Samples do not lie in windows.
  Walk walk(tape, Detail::kTies, /*positions=*/0);
  const tape::SlotNumbers number_of(tape);
  TapeSamples found{std::vector<int64_t>(number_of.size()), std::vector<bool>(tape.nodes.size(), true)};
  const auto has_samples = [&](size_t position) {
    const Node& node = *tape.nodes[position].node;
    for (uint32_t nr = 0; nr < node.num_inputs(); ++nr) {
      const State& state = walk.state_of({static_cast<int32_t>(position), nr});
      if (!state.is_reached) {
        continue;
      }
      int64_t& runs = found.runs[number_of(position, nr)];
      const int64_t numel = state.is_free ? 0 : tape::numel_of(node, nr).value_or(0);
      if (numel > 0 && numel % samples == 0) {
        runs = runs_of_samples(state.ties.upper, samples, rest, numel / samples).value_or(0);
      }
      found.has_samples[position] = found.has_samples[position] && runs > 0;
    }
    return found.has_samples[position];
  };
  if (tape.nodes.empty() || !tape.output.is_on_tape() || !walk.run([](size_t) {}, has_samples) || !walk.is_linear()) {
    return std::nullopt;
  }
  for (size_t position = 0; position < tape.nodes.size(); ++position) {
    if (!tape.nodes[position].runs) {
      has_samples(position);
    }
  }
  return found;
}

int64_t tied_samples(const Digits& digits, int64_t rest) {
  int64_t samples = 1;
  for (const Digit& digit : digits) {
    if (!digit.is_equal()) {
      continue;
    }
    if (digit.stride >= rest) {
      samples *= digit.size;
    } else if (digit.stride * digit.size > rest) {
      samples *= digit.stride * digit.size / rest;
    }
  }
  return samples;
}

Node* find_mixing_node(const Tape& tape, int64_t rest) {
  Walk walk(tape, Detail::kAll, 0);
  Node* found = nullptr;
  // Slots of what was broadcast to all samples, or is computed from that alone.
  std::vector<std::vector<bool>> is_shared(tape.nodes.size());
  const auto mark_shared = [&](Slot slot) {
    is_shared[slot.node].resize(tape.nodes[slot.node].node->num_inputs());
    is_shared[slot.node][slot.input_nr] = true;
  };
  const auto numel_at = [&](Slot slot) {
    const auto shape = known_shape(*tape.nodes[slot.node].node, slot.input_nr);
    return shape.has_value() ? numel_of(*shape) : 0;
  };
  walk.run([&](size_t position) {
    const TapeNode& node = tape.nodes[position];
    const std::vector<bool>& shared = is_shared[position];
    int64_t taken = 1;
    int64_t numel = 0;
    for (uint32_t nr = 0; nr < node.node->num_inputs(); ++nr) {
      const Slot slot{static_cast<int32_t>(position), nr};
      const State& state = walk.state_of(slot);
      if (state.is_reached) {
        taken = std::max(taken, tied_samples(state.ties.upper, rest));
        numel = std::max(numel, numel_at(slot));
      }
    }
    const bool is_from_shared = std::find(shared.begin(), shared.end(), true) != shared.end();
    for (const Slot& target : tape::links_of(tape, node)) {
      if (found != nullptr || !target.is_on_tape()) {
        continue;
      }
      const int64_t left = tied_samples(walk.state_of(target).ties.upper, rest);
      const bool is_smaller = numel_at(target) * taken <= numel * left;
      if (left < taken && is_smaller) {
        mark_shared(target);
      } else if (left < taken || (is_from_shared && numel_at(target) > numel)) {
        found = node.node;
      } else if (is_from_shared) {
        mark_shared(target);
      }
    }
  });
  return found;
}

} // namespace highgrad::structure
