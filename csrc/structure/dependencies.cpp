#include "structure/dependencies.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "structure/axes.h"
#include "structure/column_sets.h"
#include "structure/node_table.h"
#include "structure/picks.h"

namespace highgrad::structure {
namespace {

using tape::Slot;
using tape::Tape;
using torch::autograd::Node;

// What a Node takes by itself, and an element of it, in steps.
constexpr int64_t kNodeSteps = 1000;

// Columns, and elements of a tensor, that 32 bits can number.
constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;

const at::TensorOptions kLabels = at::TensorOptions(at::kInt);

struct Input {
  Slot slot;
  int64_t first_column;
  Shape shape;
};

// From `first` on, in row-major order.
at::Tensor numbers(int64_t first, const Shape& shape) {
  return at::arange(first, first + numel_of(shape), kLabels).view(shape);
}

// Of a tensor's index, each equal to itself. That of an axis of size 1 has a window, which says of an axis that lies
// along it which of its positions do.
Digits own_digits(const Shape& shape) {
  std::vector<Digits> axes;
  int64_t stride = numel_of(shape);
  for (const int64_t size : shape) {
    stride /= size;
    axes.push_back({{size, stride}});
    if (size == 1) {
      axes.back()[0].window = std::make_shared<const Window>(identity_window(1));
    }
  }
  return join_axes(axes);
}

bool says_nothing(const Digit& digit) {
  return digit.size == 1 && digit.window != nullptr && digit.window->size == 1 && digit.window->arcs[0].count == 1;
}

// The sets of a tensor's elements, as a tensor of their numbers; undefined for one that depends on nothing.
struct Labelled {
  at::Tensor sets;
  Shape shape;
};

// Elements of the output's axes that are reduced, moved and repeated: the sets of out's elements by those of in's.
class Flows {
 public:
  explicit Flows(ColumnSets& sets) : sets_(sets) {}

  // In's digits are those of Flow, by the index of out's elements.
  at::Tensor along_ties(Digits ties, const Labelled& in, const Shape& out) {
    const int64_t numel = numel_of(out);
    ties.erase(std::remove_if(ties.begin(), ties.end(), says_nothing), ties.end());
    ties = join_axes({ties});
    if (ties.size() == 1 && ties[0].is_equal() && ties[0].stride == 1 && ties[0].size == numel) {
      return in.sets.reshape(out);
    }
    at::Tensor sets = without_free(ties, in.sets);
    for (size_t k = 0; k < ties.size(); ++k) {
      if (ties[k].window != nullptr) {
        sets = slide(*ties[k].window, sets, static_cast<int64_t>(k));
        ties[k] = {ties[k].out_size(), ties[k].stride};
      }
    }
    return repeated(ties, sets, numel).reshape(out);
  }

  // Of all elements, for each of out's.
  at::Tensor to_all(const at::Tensor& in, const Shape& out) {
    const at::Tensor all = in.contiguous();
    const bool may_unite = sets_.spend(2 * all.numel() + numel_of(out));
    std::vector<int32_t> some(data_of(all), data_of(all) + all.numel());
    return at::full(out, may_unite ? sets_.unite(some) : ColumnSets::kEmpty, kLabels);
  }

  at::Tensor united(const at::Tensor& a, const at::Tensor& b) {
    if (!a.defined() || !b.defined() || a.is_same(b)) {
      return a.defined() ? a : b;
    }
    const at::Tensor left = a.contiguous();
    const at::Tensor right = b.contiguous();
    at::Tensor both = at::empty(left.sizes(), kLabels);
    const int32_t* x = data_of(left);
    const int32_t* y = data_of(right);
    auto* to = both.mutable_data_ptr<int32_t>();
    if (!sets_.spend(both.numel())) {
      return a;
    }
    int32_t last_x = 0;
    int32_t last_y = 0;
    int32_t last = 0;
    for (int64_t k = 0; k < both.numel(); ++k) {
      if (x[k] != last_x || y[k] != last_y) {
        last_x = x[k];
        last_y = y[k];
        last = sets_.unite(last_x, last_y);
      }
      to[k] = last;
    }
    return both;
  }

  // `values` besides what is at the places, one each, of `base`, which are numbered from 1 on; 0 is no place. What was
  // there is kept, or not.
  at::Tensor put(const at::Tensor& base, bool keeps_base, const at::Tensor& places, const at::Tensor& values) {
    at::Tensor out = base.clone();
    auto* to = out.mutable_data_ptr<int32_t>();
    const at::Tensor of_places = places.contiguous();
    const int32_t* place = data_of(of_places);
    const int64_t count = of_places.numel();
    if (!sets_.spend(4 * out.numel() + 4 * count)) {
      return out;
    }
    // Values by place: a counting sort.
    std::vector<int64_t> end(out.numel() + 1, 0);
    for (int64_t k = 0; k < count; ++k) {
      ++end[place[k]];
    }
    for (size_t k = 1; k < end.size(); ++k) {
      end[k] += end[k - 1];
    }
    std::vector<int64_t> begin(out.numel() + 1, 0);
    std::copy(end.begin(), end.end() - 1, begin.begin() + 1);
    const std::vector<int64_t> first = begin;
    const at::Tensor of_values = values.defined() ? values.contiguous() : values;
    std::vector<int32_t> by_place(count, ColumnSets::kEmpty);
    for (int64_t k = 0; k < count; ++k) {
      by_place[begin[place[k]]++] = of_values.defined() ? data_of(of_values)[k] : ColumnSets::kEmpty;
    }
    std::vector<int32_t> some;
    for (int64_t target = 1; target <= out.numel(); ++target) {
      if (first[target] == end[target]) {
        continue;
      }
      some.assign(by_place.begin() + first[target], by_place.begin() + end[target]);
      if (keeps_base) {
        some.push_back(to[target - 1]);
      }
      to[target - 1] = some.size() == 1 ? some[0] : sets_.unite(some);
    }
    return out;
  }

 private:
  static const int32_t* data_of(const at::Tensor& sets) {
    return sets.const_data_ptr<int32_t>();
  }

  // Takes the free digits away: the union over all of their values.
  at::Tensor without_free(Digits& digits, const at::Tensor& in) {
    std::vector<int64_t> sizes;
    std::vector<int64_t> kept;
    std::vector<int64_t> free;
    for (size_t k = 0; k < digits.size(); ++k) {
      sizes.push_back(digits[k].size);
      (digits[k].is_free() ? free : kept).push_back(static_cast<int64_t>(k));
    }
    at::Tensor sets = in.reshape(sizes);
    if (free.empty()) {
      return sets;
    }
    Shape rest;
    Digits of_rest;
    for (const int64_t k : kept) {
      rest.push_back(sizes[k]);
      of_rest.push_back(digits[k]);
    }
    kept.insert(kept.end(), free.begin(), free.end());
    sets = sets.permute(kept).contiguous();
    const int32_t* from = data_of(sets);
    const int64_t count = numel_of(rest);
    const int64_t each = sets.numel() / count;
    at::Tensor reduced = at::empty(rest, kLabels);
    auto* to = reduced.mutable_data_ptr<int32_t>();
    std::vector<int32_t> some;
    for (int64_t k = 0; k < count && sets_.spend(1 + 2 * each); ++k) {
      some.assign(from + k * each, from + (k + 1) * each);
      to[k] = sets_.unite(some);
    }
    digits = std::move(of_rest);
    return reduced;
  }

  // Positions of in's axis `dim` become those of out's.
  at::Tensor slide(const Window& window, const at::Tensor& in, int64_t dim) {
    const at::Tensor sets = in.movedim(dim, -1).contiguous();
    const auto in_size = static_cast<int64_t>(window.arcs.size());
    // In's positions by out's: a counting sort.
    std::vector<int64_t> begin(window.size + 2, 0);
    int64_t reached = in_size + window.size;
    for (const Arc& arc : window.arcs) {
      reached += 2 * arc.count;
    }
    const int64_t count = sets.numel() / in_size;
    Shape shape = sets.sizes().vec();
    shape.back() = window.size;
    if (!sets_.spend(reached)) {
      return at::zeros(shape, kLabels).movedim(-1, dim);
    }
    for (const Arc& arc : window.arcs) {
      for (int64_t k = 0; k < arc.count; ++k) {
        ++begin[(arc.first + k) % window.size + 2];
      }
    }
    for (size_t k = 3; k < begin.size(); ++k) {
      begin[k] += begin[k - 1];
    }
    std::vector<int64_t> positions(begin.back());
    for (int64_t position = 0; position < in_size; ++position) {
      const Arc arc = window.arcs[position];
      for (int64_t k = 0; k < arc.count; ++k) {
        positions[begin[(arc.first + k) % window.size + 1]++] = position;
      }
    }
    at::Tensor moved = at::empty(shape, kLabels);
    auto* to = moved.mutable_data_ptr<int32_t>();
    std::vector<int32_t> some;
    for (int64_t row = 0; row < count && sets_.spend(window.size); ++row) {
      const int32_t* from = data_of(sets) + row * in_size;
      for (int64_t position = 0; position < window.size; ++position) {
        const int64_t* own = positions.data() + begin[position];
        const int64_t own_size = begin[position + 1] - begin[position];
        if (own_size <= 1) {
          *to++ = own_size == 0 ? ColumnSets::kEmpty : from[own[0]];
          continue;
        }
        some.clear();
        for (int64_t k = 0; k < own_size; ++k) {
          some.push_back(from[own[k]]);
        }
        *to++ = sets_.unite(some);
      }
    }
    return moved.movedim(-1, dim);
  }

  // Digits that are all equal to ones of out's: the strides, in `in`, of the parts that they cut out's index into.
  at::Tensor repeated(const Digits& digits, const at::Tensor& in, int64_t numel) {
    std::vector<int64_t> cuts{1, numel};
    for (const Digit& digit : digits) {
      cuts.push_back(digit.stride);
      cuts.push_back(digit.stride * digit.size);
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    bool lines_up = cuts.back() == numel;
    for (size_t k = 1; k < cuts.size(); ++k) {
      lines_up &= cuts[k] % cuts[k - 1] == 0;
    }
    if (!lines_up) {
      return to_all(in, {numel});
    }
    std::vector<int64_t> sizes;
    std::vector<int64_t> strides;
    for (size_t k = cuts.size(); k-- > 1;) {
      int64_t stride = 0;
      for (size_t d = 0; d < digits.size(); ++d) {
        if (digits[d].stride <= cuts[k - 1] && cuts[k] <= digits[d].stride * digits[d].size) {
          stride += in.stride(static_cast<int64_t>(d)) * (cuts[k - 1] / digits[d].stride);
        }
      }
      sizes.push_back(cuts[k] / cuts[k - 1]);
      strides.push_back(stride);
    }
    sets_.spend(numel);
    return in.as_strided(sizes, strides);
  }

  ColumnSets& sets_;
};

// Walks along the tape, from the inputs on.
class Propagation {
 public:
  Propagation(const Tape& tape, int64_t columns, int64_t& work_left)
      : tape_(tape), sets_(columns, work_left), flows_(sets_) {
    // The tables of single columns.
    sets_.spend(4 * columns);
    int64_t slots = 0;
    for (const tape::TapeNode& node : tape.nodes) {
      first_slot_.push_back(slots);
      slots += node.node->num_inputs();
    }
    values_.resize(slots);
    uses_.resize(slots, 0);
    ++uses_[index_of(tape.output)];
    for (const tape::TapeNode& node : tape.nodes) {
      for (const Slot& link : node.runs ? links_of(tape, node) : c10::ArrayRef<Slot>()) {
        if (link.is_on_tape()) {
          ++uses_[index_of(link)];
        }
      }
    }
  }

  // The output's sets; false for shapes that are not known, and where there is too much work.
  bool run(const std::vector<Input>& inputs) {
    std::vector<std::vector<const Input*>> inputs_of(tape_.nodes.size());
    for (const Input& input : inputs) {
      inputs_of[input.slot.node].push_back(&input);
    }
    for (size_t position = tape_.nodes.size(); position-- > 0;) {
      if (tape_.nodes[position].runs && (!step(position) || sets_.is_exhausted())) {
        return false;
      }
      // Each element of an input depends on itself, too.
      for (const Input* input : inputs_of[position]) {
        at::Tensor& sets = values_[index_of(input->slot)];
        sets = flows_.united(sets, numbers(input->first_column + 1, input->shape));
      }
    }
    return true;
  }

  std::optional<SparsityPattern> pattern(int64_t rows, int64_t columns) {
    SparsityPattern pattern{rows, columns, {0}, {}};
    pattern.row_ptr.reserve(rows + 1);
    const at::Tensor& found = values_[index_of(tape_.output)];
    const at::Tensor sets = found.defined() ? found.contiguous() : at::zeros({rows}, kLabels);
    const auto* data = sets.const_data_ptr<int32_t>();
    for (int64_t row = 0; row < rows; ++row) {
      const auto own = sets_.columns_of(data[row]);
      if (!sets_.spend(static_cast<int64_t>(own.size()))) {
        return std::nullopt;
      }
      pattern.col_ind.insert(pattern.col_ind.end(), own.begin(), own.end());
      pattern.row_ptr.push_back(pattern.nnz());
    }
    return pattern;
  }

 private:
  size_t index_of(Slot slot) const {
    return first_slot_[slot.node] + slot.input_nr;
  }

  bool step(size_t position) {
    Node& node = *tape_.nodes[position].node;
    const auto links = links_of(tape_, tape_.nodes[position]);
    std::vector<Labelled> ins(links.size());
    int64_t in_rank = -1;
    for (size_t k = 0; k < links.size(); ++k) {
      if (!links[k].is_on_tape()) {
        continue;
      }
      auto shape = known_shape(*tape_.nodes[links[k].node].node, links[k].input_nr);
      if (!shape.has_value()) {
        return false;
      }
      in_rank = in_rank < 0 ? static_cast<int64_t>(shape->size()) : in_rank;
      ins[k] = {values_[index_of(links[k])], std::move(*shape)};
    }
    const std::optional<NodeFacts> facts = facts_of(node);
    for (uint32_t nr = 0; nr < node.num_inputs(); ++nr) {
      const Slot slot{static_cast<int32_t>(position), nr};
      if (uses_[index_of(slot)] == 0) {
        continue;
      }
      const auto out = known_shape(node, nr);
      if (!out.has_value() || numel_of(*out) > kMost) {
        return false;
      }
      sets_.spend(kNodeSteps);
      std::optional<NodeAttributes> attributes;
      if (facts.has_value()) {
        attributes = attributes_of(node, in_rank, static_cast<int64_t>(out->size()));
      }
      values_[index_of(slot)] =
          attributes.has_value() ? result(node, *facts, *attributes, ins, nr, *out) : all_of(ins, *out);
    }
    for (const Slot& link : links) {
      if (link.is_on_tape() && --uses_[index_of(link)] == 0) {
        values_[index_of(link)].reset();
      }
    }
    return true;
  }

  at::Tensor all_of(const std::vector<Labelled>& ins, const Shape& out) {
    at::Tensor all;
    for (const Labelled& in : ins) {
      all = in.sets.defined() ? flows_.united(all, flows_.to_all(in.sets, out)) : all;
    }
    return all;
  }

  at::Tensor result(
      Node& node,
      const NodeFacts& facts,
      const NodeAttributes& attributes,
      const std::vector<Labelled>& ins,
      uint32_t nr,
      const Shape& out) {
    if (Node* wrapped = wrapped_by(node)) {
      if (auto written = written_slices(*wrapped, attributes, ins, out)) {
        return std::move(*written);
      }
    } else if (facts.pick != Pick::kNone) {
      if (auto picked = picked_elements(facts, attributes, ins, nr, out)) {
        return std::move(*picked);
      }
    }
    at::Tensor all;
    const Digits itself = own_digits(out);
    for (size_t k = 0; k < ins.size(); ++k) {
      if (ins[k].sets.defined()) {
        const Digits ties = flow_through(facts.flow, attributes, nr, k, ins.size(), out, ins[k].shape, itself);
        all = flows_.united(all, flows_.along_ties(ties, ins[k], out));
      }
    }
    return all;
  }

  // None where torch, or the picks, do not take the shapes.
  std::optional<at::Tensor> picked_elements(
      const NodeFacts& facts,
      const NodeAttributes& attributes,
      const std::vector<Labelled>& ins,
      uint32_t nr,
      const Shape& out) {
    try {
      switch (facts.placing) {
        case Placing::kTaken:
          return taken(facts.pick, attributes, ins, nr, out);
        case Placing::kSpread:
          return spread(facts.pick, attributes, ins, out);
        case Placing::kPut:
        case Placing::kAdded:
          return put(facts, attributes, ins, out);
        case Placing::kSummed:
          return summed(attributes, ins, out);
      }
    } catch (const std::exception&) {
    }
    return std::nullopt;
  }

  std::optional<at::Tensor> taken(
      Pick pick,
      const NodeAttributes& attributes,
      const std::vector<Labelled>& ins,
      uint32_t nr,
      const Shape& out) {
    at::Tensor sets;
    for (size_t k = 0; k < ins.size(); ++k) {
      if (!ins[k].sets.defined()) {
        continue;
      }
      sets_.spend(numel_of(out));
      const auto picked = k == 0 ? picked_labels(pick, attributes, nr, ins[k].sets) : std::nullopt;
      if (!picked.has_value() || picked->numel() != numel_of(out)) {
        return std::nullopt;
      }
      sets = picked->reshape(out);
    }
    return sets;
  }

  std::optional<at::Tensor> spread(
      Pick pick,
      const NodeAttributes& attributes,
      const std::vector<Labelled>& ins,
      const Shape& out) {
    const at::Tensor places = numbers(1, out);
    at::Tensor sets;
    for (size_t k = 0; k < ins.size(); ++k) {
      if (!ins[k].sets.defined()) {
        continue;
      }
      const auto picked = picked_labels(pick, attributes, static_cast<int64_t>(k), places);
      if (!picked.has_value() || picked->numel() != ins[k].sets.numel()) {
        return std::nullopt;
      }
      sets = flows_.put(sets.defined() ? sets : at::zeros(out, kLabels), true, *picked, ins[k].sets);
    }
    return sets;
  }

  std::optional<at::Tensor> summed(
      const NodeAttributes& attributes,
      const std::vector<Labelled>& ins,
      const Shape& out) {
    const auto operand = static_cast<size_t>(attributes.has_places ? attributes.others.at(0) : 0);
    const auto rows = summed_rows(attributes, out.at(0));
    if (!rows.has_value() || operand >= ins.size() || !ins[operand].sets.defined()) {
      return std::nullopt;
    }
    sets_.spend(2 * rows->from.numel());
    const at::Tensor from = ins[operand].sets.reshape({ins[operand].shape.at(0), -1}).index_select(0, rows->from);
    const at::Tensor to = numbers(1, out).view({out.at(0), -1}).index_select(0, rows->to);
    if (from.numel() != to.numel()) {
      return std::nullopt;
    }
    at::Tensor sets = flows_.put(at::zeros(out, kLabels), true, to, from);
    for (size_t k = 0; k < ins.size(); ++k) {
      if (k == operand || !ins[k].sets.defined()) {
        continue;
      }
      if (k + 1 >= operand) {
        return std::nullopt; // the other factor, or weights
      }
      const Digits ties =
          flow_through(Flow::kPointwise, attributes, 0, k, ins.size(), out, ins[k].shape, own_digits(out));
      sets = flows_.united(sets, flows_.along_ties(ties, ins[k], out));
    }
    return sets;
  }

  std::optional<at::Tensor> put(
      const NodeFacts& facts,
      const NodeAttributes& attributes,
      const std::vector<Labelled>& ins,
      const Shape& out) {
    const auto picked = picked_labels(facts.pick, attributes, 0, numbers(1, out));
    if (!picked.has_value() || ins.size() > 2) {
      return std::nullopt;
    }
    const bool has_flag = facts.pick == Pick::kIndex || facts.pick == Pick::kTake;
    const bool keeps_base = facts.placing == Placing::kAdded || (has_flag && attributes.others.at(0) != 0);
    const at::Tensor base = ins[0].sets.defined() ? ins[0].sets.reshape(out).contiguous() : at::zeros(out, kLabels);
    at::Tensor values = ins.size() > 1 ? ins[1].sets : at::Tensor();
    if (values.defined() && facts.pick == Pick::kMask) {
      values = values.reshape({-1}).slice(0, 0, picked->numel());
    } else if (values.defined() && facts.pick == Pick::kGather) {
      for (int64_t dim = 0; dim < picked->dim(); ++dim) {
        values = values.slice(dim, 0, picked->size(dim));
      }
    }
    if (values.defined()) {
      values = values.numel() == picked->numel() ? values.reshape(picked->sizes()) : values.expand(picked->sizes());
    }
    return flows_.put(base, keeps_base, *picked, values);
  }

  // What the view has of the base goes through the Node that changed it.
  std::optional<at::Tensor> written_slices(
      Node& wrapped,
      const NodeAttributes& attributes,
      const std::vector<Labelled>& ins,
      const Shape& out) {
    const std::optional<NodeFacts> facts = facts_of(wrapped);
    const auto places = labels_of_view(attributes, numbers(1, out));
    if (!facts.has_value() || !places.has_value() || wrapped_by(wrapped) != nullptr) {
      return std::nullopt;
    }
    const auto rank = static_cast<int64_t>(places->dim());
    const auto of_wrapped = attributes_of(wrapped, rank, rank);
    if (!of_wrapped.has_value()) {
      return std::nullopt;
    }
    std::vector<Labelled> inside = ins;
    const at::Tensor base = ins[0].sets.defined() ? ins[0].sets.reshape(out).contiguous() : at::zeros(out, kLabels);
    inside[0] = {{}, places->sizes().vec()};
    if (ins[0].sets.defined()) {
      inside[0].sets = *labels_of_view(attributes, base);
    }
    const at::Tensor changed = result(wrapped, *facts, *of_wrapped, inside, 0, inside[0].shape);
    return flows_.put(base, false, *places, changed);
  }

  const Tape& tape_;
  ColumnSets sets_;
  Flows flows_;
  std::vector<int64_t> first_slot_;
  std::vector<at::Tensor> values_; // of each slot
  std::vector<int64_t> uses_; // of each slot: Nodes that have yet to read it
};

} // namespace

std::optional<SparsityPattern> dependency_pattern(const Tape& tape, int64_t& work_left) {
  if (!tape.output.is_on_tape() || kNodeSteps * static_cast<int64_t>(tape.nodes.size()) > work_left) {
    return std::nullopt;
  }
  const auto output = known_shape(*tape.nodes[tape.output.node].node, tape.output.input_nr);
  std::vector<Input> inputs;
  int64_t columns = 0;
  for (const Slot& slot : tape.inputs) {
    if (slot.is_on_tape()) {
      auto shape = known_shape(*tape.nodes[slot.node].node, slot.input_nr);
      if (!shape.has_value()) {
        return std::nullopt;
      }
      inputs.push_back({slot, columns, std::move(*shape)});
      columns += numel_of(inputs.back().shape);
    }
  }
  if (!output.has_value() || columns > kMost) {
    return std::nullopt;
  }
  const BelowModes below;
  Propagation propagation(tape, columns, work_left);
  return propagation.run(inputs) ? propagation.pattern(numel_of(*output), columns) : std::nullopt;
}

} // namespace highgrad::structure
