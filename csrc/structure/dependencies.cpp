#include "structure/dependencies.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <exception>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "structure/axes.h"
#include "structure/axis_flow.h"
#include "structure/column_sets.h"
#include "structure/node_table.h"
#include "structure/picks.h"
#include "structure/set_flows.h"
#include "tape/slot_numbers.h"

namespace highgrad::structure {
namespace {

using tape::Slot;
using tape::Tape;
using torch::autograd::Node;

// What a Node takes by itself, and an element of it, in steps.
constexpr int64_t kNodeSteps = 1000;

// Columns, and elements of a tensor, that 32 bits can number.
constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;

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

// Walks along the tape, from the inputs on.
class Propagation {
 public:
  Propagation(const Tape& tape, int64_t columns, int64_t& work_left)
      : tape_(tape),
        sets_(columns, work_left),
        flows_(sets_),
        number_of_(tape),
        values_(number_of_.size()),
        uses_(number_of_.size(), 0) {
    // The tables of single columns.
    sets_.spend(4 * columns);
    ++uses_[number_of_(tape.output)];
    for (const tape::TapeNode& node : tape.nodes) {
      for (const Slot& link : node.runs ? links_of(tape, node) : c10::ArrayRef<Slot>()) {
        if (link.is_on_tape()) {
          ++uses_[number_of_(link)];
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
        at::Tensor& sets = values_[number_of_(input->slot)];
        sets = flows_.united(sets, numbers(input->first_column + 1, input->shape));
      }
    }
    return true;
  }

  std::optional<SparsityPattern> pattern(int64_t rows, int64_t columns) {
    SparsityPattern pattern{rows, columns, {0}, {}};
    pattern.row_ptr.reserve(rows + 1);
    const at::Tensor& found = values_[number_of_(tape_.output)];
    const at::Tensor sets = found.defined() ? found.contiguous() : at::zeros({rows}, kLabels);
    const auto* data = sets.const_data_ptr<int32_t>();
    for (int64_t row = 0; row < rows; ++row) {
      if (!sets_.append_columns(data[row], pattern.col_ind)) {
        return std::nullopt;
      }
      pattern.row_ptr.push_back(pattern.nnz());
    }
    return pattern;
  }

 private:
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
      ins[k] = {values_[number_of_(links[k])], std::move(*shape)};
    }
    const std::optional<NodeFacts> facts = facts_of(node);
    for (uint32_t nr = 0; nr < node.num_inputs(); ++nr) {
      const Slot slot{static_cast<int32_t>(position), nr};
      if (uses_[number_of_(slot)] == 0) {
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
      values_[number_of_(slot)] =
          attributes.has_value() ? result(node, *facts, *attributes, ins, nr, *out) : all_of(ins, *out);
    }
    for (const Slot& link : links) {
      if (link.is_on_tape() && --uses_[number_of_(link)] == 0) {
        values_[number_of_(link)].reset();
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
          return summed(facts.pick, attributes, ins, out);
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
      Pick pick,
      const NodeAttributes& attributes,
      const std::vector<Labelled>& ins,
      const Shape& out) {
    const auto operand = static_cast<size_t>(attributes.has_places ? attributes.others.at(0) : 0);
    if (operand >= ins.size() || !ins[operand].sets.defined() || out.at(0) == 0) {
      return std::nullopt;
    }
    const auto rows = summed_rows(pick, attributes, ins[operand].shape, out.at(0));
    if (!rows.has_value()) {
      return std::nullopt;
    }
    sets_.spend(2 * rows->from.numel());
    const at::Tensor from = ins[operand].sets.reshape({-1, numel_of(out) / out.at(0)}).index_select(0, rows->from);
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
  SetFlows flows_;
  const tape::SlotNumbers number_of_;
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
