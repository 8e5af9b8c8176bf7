#include "structure/axes.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <string_view>
#include <typeinfo>
#include <utility>

#include "tape/signature.h"

namespace highgrad::structure {
namespace {

using tape::Hash;
using tape::Slot;
using tape::Tape;
using tape::TapeNode;
using torch::autograd::Node;

using Axes = std::vector<Digits>;

bool contains(const std::vector<int64_t>& dims, size_t axis) {
  return std::find(dims.begin(), dims.end(), static_cast<int64_t>(axis)) != dims.end();
}

// `from`'s digits for an axis of the same size, free ones otherwise.
Digits axis_of_size(const Axes& axes, const Shape& shape, size_t from, int64_t size) {
  return from < shape.size() && shape[from] == size ? axes[from] : all_free(size);
}

Digits pointwise(const Shape& out, const Shape& in, const Digits& digits) {
  if (out == in) {
    return digits;
  }
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    // Counted from the last axis. One that in lacks or has once is summed over.
    const size_t from = out.size() - in.size() + axis; // wraps where out has fewer axes
    result[axis] = axis_of_size(axes, out, from, in[axis]);
  }
  return join_axes(result);
}

Digits permuted(const std::vector<int64_t>& dims, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    result[dims[axis]] = axis_of_size(axes, out, axis, in[dims[axis]]);
  }
  return join_axes(result);
}

std::vector<int64_t> swapped(const std::vector<int64_t>& dims, size_t rank) {
  std::vector<int64_t> order(rank);
  std::iota(order.begin(), order.end(), 0);
  std::swap(order[dims[0]], order[dims[1]]);
  return order;
}

Digits reduced(const std::vector<int64_t>& dims, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  const bool keeps = out.size() == in.size();
  Axes result(in.size());
  size_t from = 0;
  for (size_t axis = 0; axis < in.size(); ++axis) {
    // None are all: of each, only an axis of size 1 can have its size kept.
    const bool is_reduced = contains(dims, axis);
    result[axis] = is_reduced ? all_free(in[axis]) : axis_of_size(axes, out, from, in[axis]);
    from += keeps || !is_reduced ? 1 : 0;
  }
  return join_axes(result);
}

// In's axes are out's, but for `dims`: these lie along out's as `slide(i)` of dims[i] says, or are free where it is
// null.
template <typename SlideOf>
Digits resized(
    const std::vector<int64_t>& dims,
    SlideOf&& slide,
    const Shape& out,
    const Shape& in,
    const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    const auto place = std::find(dims.begin(), dims.end(), static_cast<int64_t>(axis));
    if (place == dims.end()) {
      result[axis] = axis_of_size(axes, out, axis, in[axis]);
      continue;
    }
    // An axis may be rolled twice.
    const bool is_once = std::find(place + 1, dims.end(), *place) == dims.end();
    const Slide* along = is_once ? slide(static_cast<size_t>(place - dims.begin())) : nullptr;
    result[axis] = along == nullptr ? all_free(in[axis]) : slide_digits(*along, axes[axis], in[axis]);
  }
  return join_axes(result);
}

// Samples are the same, channels of one group depend on those of that group, and the other axes slide.
Digits convolved(const NodeAttributes& attributes, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  result[0] = axis_of_size(axes, out, 0, in[0]);
  const Digits group = split_by_axis(axes[1], {attributes.groups, out[1] / attributes.groups})[0];
  result[1] = join_axes({group, all_free(in[1] / attributes.groups)});
  for (size_t axis = 2; axis < in.size(); ++axis) {
    result[axis] = slide_digits(attributes.slides[axis - 2], axes[axis], in[axis]);
  }
  return join_axes(result);
}

// In's axis k is out's axis from(k), or free where that is negative.
template <typename From>
Digits rearranged(From&& from, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    const int64_t place = from(static_cast<int64_t>(axis));
    result[axis] = place < 0 ? all_free(in[axis]) : axis_of_size(axes, out, static_cast<size_t>(place), in[axis]);
  }
  return join_axes(result);
}

// In's axes `dims`, ascending, are replaced by those of their indices.
Digits indexed(const std::vector<int64_t>& dims, const Shape& out, const Shape& in, const Digits& digits) {
  const auto count = static_cast<int64_t>(dims.size());
  const int64_t gained = static_cast<int64_t>(out.size()) - (static_cast<int64_t>(in.size()) - count);
  const bool are_neighbours = dims.back() - dims.front() == count - 1;
  const auto from = [&](int64_t axis) {
    const auto next = std::lower_bound(dims.begin(), dims.end(), axis);
    if (next != dims.end() && *next == axis) {
      return int64_t{-1};
    }
    const int64_t left_out = next - dims.begin();
    return axis - left_out + (left_out > 0 || !are_neighbours ? gained : 0);
  };
  return rearranged(from, out, in, digits);
}

// In's axis `dim` at one position: what all of out depends on, that position does.
Digits taken(int64_t dim, int64_t position, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    const auto d = static_cast<int64_t>(axis);
    result[axis] = d == dim ? all_free(in[axis]) : axis_of_size(axes, out, axis - (d > dim ? 1 : 0), in[axis]);
  }
  const auto common = std::find_if(
      digits.begin(), digits.end(), [](const Digit& digit) { return digit.size == 1 && digit.window != nullptr; });
  if (common != digits.end()) {
    const int64_t size = in[dim];
    result[dim] =
        slide_digits({Slide::Kind::kOver, 1, 1, position < 0 ? -position - size : -position}, {*common}, size);
  }
  return join_axes(result);
}

// Out's axis `dim` has in at one position.
Digits inserted(int64_t dim, int64_t position, const Shape& out, const Shape& in, const Digits& digits) {
  const Slide slide{Slide::Kind::kOver, 1, 1, position < 0 ? position + out[dim] : position};
  const Digits at_position = slide_digits(slide, split_by_axis(digits, out)[dim], 1);
  return join_axes(
      {at_position, rearranged([&](int64_t axis) { return axis + (axis >= dim ? 1 : 0); }, out, in, digits)});
}

Digits unfolded(const NodeAttributes& attributes, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    result[axis] = static_cast<int64_t>(axis) == attributes.dims[0]
        ? slide_digits(attributes.slides[0], axes[axis], in[axis])
        : axis_of_size(axes, out, axis, in[axis]);
  }
  return join_axes(result);
}

// What is written to the view of a base, which out is.
Digits written(const NodeAttributes& attributes, const Shape& out, const Shape& in, const Digits& digits) {
  if (attributes.slides.size() < attributes.view.size() || attributes.view.size() < in.size()) {
    return all_free(numel_of(in));
  }
  const Axes axes = split_by_axis(digits, out);
  Axes view;
  Axes fixed;
  for (size_t i = 0; i < attributes.slides.size(); ++i) {
    const int64_t along = attributes.dims[i];
    const bool is_fixed = i >= attributes.view.size();
    const int64_t size = is_fixed ? 1 : attributes.view[i];
    (is_fixed ? fixed : view)
        .push_back(along < 0 ? all_free(size) : slide_digits(attributes.slides[i], axes[along], size));
  }
  fixed.push_back(pointwise(attributes.view, in, join_axes(view)));
  return join_axes(fixed);
}

Digits product(size_t k, size_t num_ins, const Shape& out, const Shape& in, const Digits& digits) {
  if (k + 2 < num_ins) {
    return pointwise(out, in, digits);
  }
  const Axes axes = split_by_axis(digits, out);
  const bool is_left = k + 2 == num_ins;
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    // in is [..., M, K] or [..., K, N], out [..., M, N], where a vector has no M or no N.
    const bool is_last = axis + 1 == in.size();
    const bool is_inner = is_left ? is_last : axis + 2 == in.size() || in.size() == 1;
    const size_t from = !is_left && is_last ? out.size() - 1 : axis;
    result[axis] = is_inner ? all_free(in[axis]) : axis_of_size(axes, out, from, in[axis]);
  }
  return join_axes(result);
}

bool are_free(const Digits& digits) {
  return std::all_of(digits.begin(), digits.end(), [](const Digit& digit) { return digit.is_free(); });
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
  Walk(const Tape& tape, Detail detail) : tape_(tape), detail_(detail) {
    first_slot_.reserve(tape.nodes.size());
    int64_t slots = 0;
    for (const TapeNode& node : tape.nodes) {
      first_slot_.push_back(slots);
      slots += node.node->num_inputs();
    }
    states_.resize(slots);
  }

  // The whole tape; false for a shape that is unknown or empty. on_step(position) is called after each Node.
  template <typename OnStep>
  bool run(OnStep&& on_step) {
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
      if (!step(position)) {
        return false;
      }
      on_step(position);
    }
    return true;
  }

  const State& state_of(Slot slot) const {
    return states_[first_slot_[slot.node] + slot.input_nr];
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
    return states_[first_slot_[slot.node] + slot.input_nr];
  }

  static bool may_be_input(Node& node) {
    return node.pre_hooks().empty() && node.tensor_pre_hooks().empty();
  }

  void note_not_linear(Node& node) {
    analysis_.is_known = false;
    analysis_.keeps_nan = false;
    analysis_.not_linear = analysis_.not_linear == nullptr ? &node : analysis_.not_linear;
  }

  // Where nothing of a Node's slots is tied, nothing is of what these depend on. False if something is, or if shapes
  // are not known, or there are no elements.
  bool hand_on_freely(size_t position, const std::optional<NodeFacts>& facts, c10::ArrayRef<Slot> links) {
    const Node& node = *tape_.nodes[position].node;
    bool has_lower = false;
    for (uint32_t nr = 0; nr < node.num_inputs(); ++nr) {
      const State& state = states_[first_slot_[position] + nr];
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

  // Hands the ties of a Node's slots on.
  bool step(size_t position) {
    Node& node = *tape_.nodes[position].node;
    if (!tape::is_vjp_linear(node)) {
      note_not_linear(node);
    }
    const std::optional<NodeFacts> facts = facts_of(node);
    analysis_.is_known &= facts.has_value();
    analysis_.keeps_nan &= facts.has_value() && facts->keeps_nan;
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
        hash_.add(static_cast<int64_t>(k));
        hash_.add(links[k]);
        hash_.add(*ins[k]);
      }
    }
    hash_.add(static_cast<int64_t>(std::hash<std::string_view>()(typeid(node).name())));
    std::optional<NodeAttributes> attributes;
    bool is_first = true;
    for (uint32_t nr = 0; nr < node.num_inputs(); ++nr) {
      State state = states_[first_slot_[position] + nr];
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
      hash_.add(nr);
      hash_.add(*out);
      if (is_first && facts.has_value()) {
        attributes = attributes_of(node, in_rank, static_cast<int64_t>(out->size()));
        if (attributes.has_value()) {
          hash_.add(attributes->dims);
          hash_.add(attributes->others);
          analysis_.indices.insert(analysis_.indices.end(), attributes->indices.begin(), attributes->indices.end());
          for (const Slide& slide : attributes->slides) {
            hash_.add({static_cast<int64_t>(slide.kind), slide.kernel, slide.stride, slide.padding, slide.dilation});
          }
        } else {
          analysis_.is_global = false;
        }
      }
      is_first = false;
      for (size_t k = 0; k < links.size(); ++k) {
        if (!links[k].is_on_tape()) {
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
        join(at(links[k]), std::move(ties));
      }
    }
    return true;
  }

  const Tape& tape_;
  const Detail detail_;
  std::vector<int64_t> first_slot_;
  std::vector<State> states_;
  AxisAnalysis analysis_;
  Hash hash_;
};

} // namespace

std::optional<Shape> known_shape(const Node& node, uint32_t input_nr) {
  auto shape = tape::shape_of(node, input_nr);
  return shape.has_value() && numel_of(*shape) == 0 ? std::nullopt : shape;
}

Digits flow_through(
    Flow flow,
    const NodeAttributes& attributes,
    uint32_t nr,
    size_t k,
    size_t num_ins,
    const Shape& out,
    const Shape& in,
    const Digits& digits) {
  const Digits unknown = all_free(numel_of(in));
  const std::vector<int64_t>& dims = attributes.dims;
  const std::vector<Slide>& slides = attributes.slides;
  const auto slide_of = [&](size_t i) -> const Slide* {
    const size_t part = std::max<size_t>(k, nr);
    const size_t at = slides.size() == dims.size() ? i : part;
    return at < slides.size() ? &slides[at] : nullptr;
  };
  switch (flow) {
    case Flow::kOther:
      return unknown;
    case Flow::kPointwise:
      return pointwise(out, in, digits);
    case Flow::kFlat:
      return numel_of(in) == numel_of(out) ? digits : unknown;
    case Flow::kPermute:
      return dims.size() == in.size() && in.size() == out.size() ? permuted(dims, out, in, digits) : unknown;
    case Flow::kSwap:
      // A tensor without axes may be transposed, too.
      return in.size() == out.size() && !in.empty() ? permuted(swapped(dims, in.size()), out, in, digits) : unknown;
    case Flow::kReduce:
      return reduced(dims, out, in, digits);
    case Flow::kMix:
      // Weights and biases besides the input have an axis for each of `dims` alone, or else its shape, as a second
      // factor has. No dims are all, as roll's.
      if (in != out || (dims.empty() && in.size() != 1)) {
        return unknown;
      }
      return resized(dims.empty() ? std::vector<int64_t>{0} : dims, slide_of, out, in, digits);
    case Flow::kResize:
      return in.size() != out.size() ? unknown : resized(dims, slide_of, out, in, digits);
    case Flow::kIndex:
      return dims.empty() || dims.back() >= static_cast<int64_t>(in.size()) ? unknown : indexed(dims, out, in, digits);
    case Flow::kTake:
      return in.size() != out.size() + 1
          ? unknown
          : taken(dims[0], attributes.others.empty() ? nr : attributes.others[0], out, in, digits);
    case Flow::kInsert:
      return in.size() + 1 != out.size()
          ? unknown
          : inserted(
                dims[0], attributes.others.empty() ? static_cast<int64_t>(k) : attributes.others[0], out, in, digits);
    case Flow::kUnfold:
      return in.size() + 1 != out.size() || slides.size() != 1 ? unknown : unfolded(attributes, out, in, digits);
    case Flow::kWrite:
      return k == 0 ? pointwise(out, in, digits) : written(attributes, out, in, digits);
    case Flow::kMatrixProduct:
      return product(k, num_ins, out, in, digits);
    case Flow::kMatrices:
      // With more axes than in, out has been broadcast.
      return in.size() < out.size() ? unknown
                                    : rearranged(
                                          [&](int64_t axis) {
                                            const int64_t own = k > 0 && attributes.is_vector ? 1 : 2;
                                            return axis + own < static_cast<int64_t>(in.size()) ? axis : -1;
                                          },
                                          out,
                                          in,
                                          digits);
    case Flow::kPairs:
      return in.size() != out.size() || k > 1
          ? unknown
          : rearranged(
                [&](int64_t axis) {
                  const auto rank = static_cast<int64_t>(in.size());
                  return axis + 1 == rank ? -1 : axis + 2 == rank && k == 1 ? rank - 1 : axis;
                },
                out,
                in,
                digits);
    case Flow::kFirst:
      return k > 0 ? unknown : rearranged([](int64_t axis) { return axis == 0 ? 0 : -1; }, out, in, digits);
    case Flow::kConvolution:
      if (k > 0 || in.size() != out.size()) {
        return unknown;
      }
      return slides.size() + 2 == in.size()
          ? convolved(attributes, out, in, digits)
          : rearranged([&](int64_t axis) { return axis == 0 ? 0 : -1; }, out, in, digits);
  }
  return unknown;
}

std::optional<AxisAnalysis> analyze_axes(const Tape& tape, Detail detail) {
  Walk walk(tape, detail);
  if (tape.nodes.empty() || !tape.output.is_on_tape() || !walk.run([](size_t) {})) {
    return std::nullopt;
  }
  return walk.take_analysis();
}

bool keeps_samples_apart(const Digits& digits, int64_t samples, int64_t rest, int64_t own) {
  const auto axes = split_by_axis(digits, {samples, own});
  return samples == 1 ||
      (axes[0].size() == 1 && axes[0][0].is_equal() && axes[0][0].size == samples && axes[0][0].stride == rest);
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
  Walk walk(tape, Detail::kAll);
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
