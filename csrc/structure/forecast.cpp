#include "structure/forecast.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <numeric>
#include <optional>
#include <vector>

#include "structure/axes.h"
#include "structure/axis_flow.h"
#include "structure/node_table.h"
#include "tape/slot_numbers.h"

namespace highgrad::structure {
namespace {

using tape::Slot;
using tape::Tape;
using tape::TapeNode;
using torch::autograd::Node;

// Elements of in that an element of out is computed from, on average; whether that is one at least of each; and whether
// it is all of in.
struct FanIn {
  double count = 0;
  bool is_sure = false;
  bool is_all = false;
};

FanIn all_of(const Shape& in) {
  return {static_cast<double>(numel_of(in)), true, true};
}

double share(const Shape& part, const Shape& whole) {
  return static_cast<double>(numel_of(part)) / static_cast<double>(numel_of(whole));
}

// Of a Node that picks elements.
FanIn fan_in_of_picks(
    const NodeFacts& facts,
    const NodeAttributes& attributes,
    size_t k,
    const Shape& out,
    const Shape& in) {
  if (facts.placing == Placing::kAdded) {
    return k > 0 ? FanIn{share(in, out)} : FanIn{1, true};
  }
  if (facts.placing == Placing::kSummed && static_cast<int64_t>(k) == attributes.others.at(0)) {
    if (facts.pick == Pick::kPairs) {
      return {2 * static_cast<double>(in.at(1))};
    }
    if (facts.pick == Pick::kSegments) {
      return {static_cast<double>(in.at(0)) / static_cast<double>(out.at(0))};
    }
    return {static_cast<double>(attributes.indices.at(0).numel()) / static_cast<double>(out.at(0))};
  }
  const bool may_be_none = facts.pick == Pick::kLower || facts.pick == Pick::kUpper || facts.pick == Pick::kPatches;
  return {1, facts.placing == Placing::kTaken && !may_be_none};
}

// Of one axis.
FanIn fan_in_of(const Slide& slide, int64_t in_size, int64_t out_size) {
  const auto kernel = static_cast<double>(slide.kernel);
  const double each = static_cast<double>(in_size) / static_cast<double>(out_size);
  switch (slide.kind) {
    case Slide::Kind::kUpTo:
      return {static_cast<double>(in_size), true};
    case Slide::Kind::kShare:
      return {each + 1, true};
    case Slide::Kind::kNear:
      return {2 * kernel + 1, true};
    case Slide::Kind::kUnder:
      return {kernel * each};
    default:
      break;
  }
  // Of the first window the last position, and of the last window the first, lie in in, where no step goes past it.
  const bool is_over = slide.kind == Slide::Kind::kOver;
  const bool is_sure = !is_over ||
      ((slide.kernel - 1) * slide.dilation >= slide.padding &&
       (out_size - 1) * slide.stride - slide.padding < in_size && slide.dilation <= in_size);
  return {kernel * std::min(1.0, each / static_cast<double>(slide.stride)), is_sure};
}

// Of axes that slide: those of a convolution's input, with its channels, or `dims`, of which an operator with several
// ins, or outs, has one slide for each of these.
std::optional<FanIn> fan_in_of_slides(
    const NodeFacts& facts,
    const NodeAttributes& attributes,
    size_t part,
    const Shape& out,
    const Shape& in) {
  const std::vector<Slide>& slides = attributes.slides;
  if (in.size() != out.size() || slides.empty()) {
    return std::nullopt;
  }
  FanIn found{1, true};
  const auto add = [&](const Slide& slide, size_t axis) {
    const FanIn along = fan_in_of(slide, in[axis], out[axis]);
    found.count *= along.count;
    found.is_sure &= along.is_sure;
  };
  if (facts.flow == Flow::kConvolution && part == 0 && slides.size() + 2 == in.size()) {
    found.count = static_cast<double>(in[1]) / static_cast<double>(attributes.groups);
    for (size_t k = 0; k < slides.size(); ++k) {
      add(slides[k], k + 2);
    }
    return found;
  }
  if (facts.flow != Flow::kMix && facts.flow != Flow::kResize) {
    return std::nullopt;
  }
  const std::vector<int64_t> dims = attributes.dims.empty() ? std::vector<int64_t>{0} : attributes.dims;
  for (size_t k = 0; k < dims.size(); ++k) {
    const size_t at = slides.size() == attributes.dims.size() ? k : part;
    if (at >= slides.size() || dims[k] >= static_cast<int64_t>(in.size())) {
      return std::nullopt;
    }
    add(slides[at], static_cast<size_t>(dims[k]));
  }
  return found;
}

// The elements of the last axes that both have, alike, which picks along other axes leave together.
int64_t common_run(int64_t run, const Shape& out, const Shape& in) {
  int64_t rows = 1;
  for (size_t k = 1; k <= std::min(out.size(), in.size()) && out[out.size() - k] == in[in.size() - k]; ++k) {
    rows *= in[in.size() - k];
  }
  return std::gcd(run, rows);
}

// Of the last digits, those that are free: all elements along them come together.
int64_t free_run(const Digits& digits) {
  int64_t run = 1;
  for (auto digit = digits.rbegin(); digit != digits.rend() && digit->is_free(); ++digit) {
    run *= digit->size;
  }
  return run;
}

// A tensor of so many elements, which are told apart by runs alone.
Digits digits_of_runs(int64_t numel, int64_t run) {
  Digits digits;
  if (numel > run) {
    digits.push_back({numel / run, run});
  }
  if (run > 1) {
    digits.push_back({run});
  }
  return digits;
}

FanIn fan_in_of_flow(const Digits& digits) {
  FanIn found{1, true, true};
  for (const Digit& digit : digits) {
    found.is_all &= digit.is_free();
    found.is_sure &= digit.window == nullptr;
    found.count *= digit.is_equal() ? 1 : static_cast<double>(digit.size);
  }
  return found;
}

// How many elements, and how many of them, neighbours in memory, come together: those of a row that was mixed.
struct Part {
  double size;
  int64_t run;
};

// Elements of one tensor that an element of the output depends on, on average: none so far, all of them, or parts that
// may overlap, each known by its number.
struct Reach {
  bool is_all = false;
  bool is_sure = false; // of each element of the output, one at least
  std::vector<int32_t> parts; // ascending

  bool is_none() const {
    return !is_all && parts.empty();
  }
};

class Walk {
 public:
  explicit Walk(const Tape& tape)
      : tape_(tape), number_of_(tape), reached_(number_of_.size()), is_input_(number_of_.size(), false) {
    for (const Slot& input : tape.inputs) {
      if (input.is_on_tape()) {
        is_input_[number_of_(input)] = true;
      }
    }
  }

  Forecast run() {
    reach(tape_.output, {false, true, {new_part(1, 1)}});
    for (size_t position = 0; position < tape_.nodes.size(); ++position) {
      if (tape_.nodes[position].runs) {
        step(position);
      }
      for (uint32_t nr = 0; nr < tape_.nodes[position].node->num_inputs(); ++nr) {
        const size_t index = number_of_(position, nr);
        num_partial_ -= !is_input_[index] && !reached_[index].is_none() && !reached_[index].is_all ? 1 : 0;
      }
      if (num_partial_ == 0) {
        break;
      }
    }
    Forecast forecast{0, 0, num_partial_ == 0};
    for (const Slot& input : tape_.inputs) {
      if (input.is_on_tape()) {
        const double numel = static_cast<double>(numel_at(input));
        const double columns =
            forecast.are_rows_alike ? numel : std::min(numel, count(reached_[number_of_(input)]).value_or(numel));
        forecast.columns += columns;
        forecast.share = std::max(forecast.share, columns / numel);
      }
    }
    return forecast;
  }

 private:
  int64_t numel_at(Slot slot) const {
    return tape::numel_of(*tape_.nodes[slot.node].node, slot.input_nr).value_or(0);
  }

  int32_t new_part(double size, int64_t run) {
    parts_.push_back({size, run});
    return static_cast<int32_t>(parts_.size()) - 1;
  }

  // None for all.
  std::optional<double> count(const Reach& reached) const {
    double sum = 0;
    for (const int32_t part : reached.parts) {
      sum += parts_[part].size;
    }
    return reached.is_all ? std::nullopt : std::optional(sum);
  }

  // Of all parts together.
  int64_t run_of(const Reach& reached) const {
    int64_t run = 0;
    for (const int32_t part : reached.parts) {
      run = std::gcd(run, parts_[part].run);
    }
    return std::max<int64_t>(run, 1);
  }

  void reach(Slot slot, const Reach& more) {
    Reach& known = reached_[number_of_(slot)];
    if (known.is_all || more.is_none()) {
      return;
    }
    num_partial_ += (more.is_all ? 0 : 1) - (known.is_none() ? 0 : 1);
    if (more.is_all) {
      known = more;
      return;
    }
    known.is_sure |= more.is_sure;
    std::vector<int32_t> both;
    std::set_union(
        known.parts.begin(), known.parts.end(), more.parts.begin(), more.parts.end(), std::back_inserter(both));
    known.parts = std::move(both);
    // So many parts overlap.
    const auto numel = static_cast<double>(numel_at(slot));
    if (known.parts.size() > 1 && *count(known) >= numel) {
      known.parts = {new_part(numel, run_of(known))};
    }
  }

  void step(size_t position) {
    Node& node = *tape_.nodes[position].node;
    const auto links = links_of(tape_, tape_.nodes[position]);
    const std::optional<NodeFacts> facts = facts_of(node);
    const bool is_elementwise = facts.has_value() && facts->pick == Pick::kNone &&
        (facts->flow == Flow::kPointwise || facts->flow == Flow::kFlat);
    for (uint32_t nr = 0; nr < node.num_inputs(); ++nr) {
      const Slot slot{static_cast<int32_t>(position), nr};
      const Reach reached = reached_[number_of_(slot)];
      if (reached.is_none()) {
        continue;
      }
      std::optional<NodeAttributes> attributes;
      for (size_t k = 0; k < links.size(); ++k) {
        if (!links[k].is_on_tape()) {
          continue;
        }
        if (is_elementwise && (reached.is_all || numel_at(links[k]) == numel_at(slot))) {
          reach(links[k], reached);
        } else {
          if (!attributes.has_value() && facts.has_value()) {
            attributes = attributes_at(slot, links);
          }
          reach(links[k], behind(slot, reached, facts, attributes, k, links));
        }
      }
    }
  }

  std::optional<Shape> shape_at(Slot slot) const {
    return known_shape(*tape_.nodes[slot.node].node, slot.input_nr);
  }

  std::optional<NodeAttributes> attributes_at(Slot slot, c10::ArrayRef<Slot> links) const {
    const auto out = shape_at(slot);
    const auto in = shape_at(*std::find_if(links.begin(), links.end(), [](Slot link) { return link.is_on_tape(); }));
    return !out.has_value() || !in.has_value()
        ? std::nullopt
        : attributes_of(
              *tape_.nodes[slot.node].node, static_cast<int64_t>(in->size()), static_cast<int64_t>(out->size()));
  }

  // Of in number k, by what is reached of out.
  Reach behind(
      Slot slot,
      const Reach& reached,
      const std::optional<NodeFacts>& facts,
      const std::optional<NodeAttributes>& attributes,
      size_t k,
      c10::ArrayRef<Slot> links) {
    const auto out = shape_at(slot);
    const auto in = shape_at(links[k]);
    if (!out.has_value() || !in.has_value()) {
      return {false, false, {new_part(static_cast<double>(numel_at(links[k])), 1)}};
    }
    Node& node = *tape_.nodes[slot.node].node;
    const int64_t numel = numel_of(*out);
    const bool writes = wrapped_by(node) != nullptr;
    const bool picks = writes || (attributes.has_value() && attributes->has_places && facts->pick != Pick::kNone);
    FanIn fan_in = all_of(*in);
    int64_t run = 1, run_in = 1; // of out, and of in behind it
    if (writes) {
      fan_in = {1};
    } else if (picks) {
      fan_in = fan_in_of_picks(*facts, *attributes, k, *out, *in);
      run_in = common_run(run_of(reached), *out, *in);
    } else if (attributes.has_value()) {
      const auto of_slides = fan_in_of_slides(*facts, *attributes, std::max<size_t>(k, slot.input_nr), *out, *in);
      if (of_slides.has_value()) {
        fan_in = *of_slides;
      } else {
        const auto through = [&](int64_t together) {
          const Digits itself = digits_of_runs(numel, together);
          return flow_through(facts->flow, *attributes, slot.input_nr, k, links.size(), *out, *in, itself);
        };
        Digits digits = through(1);
        fan_in = fan_in_of_flow(digits);
        run = common_run(run_of(reached), *out, *out);
        if (run > 1) {
          digits = through(run);
          fan_in.count = fan_in_of_flow(digits).count;
        }
        run_in = free_run(digits);
      }
    }
    // All of out is computed from all of in, unless there is more than that of in.
    const bool is_all_of_all = reached.is_all && !picks && numel_of(*in) <= numel;
    if (reached.is_sure && (fan_in.is_all || is_all_of_all)) {
      return {true, true, {}};
    }
    const double of_out = count(reached).value_or(static_cast<double>(numel));
    const double all = static_cast<double>(numel_of(*in));
    const double size = std::min(fan_in.count * of_out / static_cast<double>(run), all);
    return {false, reached.is_sure && fan_in.is_sure, {new_part(size, run_in)}};
  }

  const Tape& tape_;
  const tape::SlotNumbers number_of_;
  std::vector<Reach> reached_; // of each slot
  std::vector<bool> is_input_; // likewise
  std::vector<Part> parts_;
  int64_t num_partial_ = 0; // slots of which neither none nor all are reached, and whose Nodes are to come, or inputs
};

} // namespace

Forecast forecast_columns(const Tape& tape) {
  return tape.output.is_on_tape() ? Walk(tape).run() : Forecast();
}

} // namespace highgrad::structure
