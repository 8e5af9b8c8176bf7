#include "engine/layer_parameters.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <utility>

#include "engine/endpoint.h"
#include "engine/layer_rows.h"
#include "engine/sweeps.h"
#include "ops/joined_shape.h"
#include "plan/cost.h"
#include "structure/axes.h"
#include "tape/plain_tensor.h"
#include "tape/slot_numbers.h"
#include "vjp/rule.h"

namespace highgrad::engine {
namespace {

using tape::Slot;
using tape::Tape;
using torch::autograd::Node;
using torch::autograd::generated::TBackward0;

bool is_same(Slot a, Slot b) {
  return a.node == b.node && a.input_nr == b.input_nr;
}

// A tensor without samples that layers take.
struct Operand {
  Slot slot;
  bool is_input_alone; // an input, from which nothing leads further
};

// What it adds to the rows of an operand. output: its number among all outputs of layers.
struct Layer {
  size_t operand, output;
  OperandRows rows;
};

struct Cut {
  std::vector<Operand> operands;
  std::vector<Layer> layers;
  torch::autograd::edge_list outputs; // of layers, each once
};

// Cuts a tape as Note [Parameters of layers] says.
class Cutter {
 public:
  Cutter(const OutputProblem& problem, structure::TapeSamples samples)
      : problem_(problem), tape_(problem.tape), number_of_(problem.tape), samples_(std::move(samples)) {}

  // In rows of reverse mode over the whole tape.
  double cost() const {
    int64_t below = 0, above = 0;
    for (const auto i : c10::irange(tape_.nodes.size())) {
      const tape::TapeNode& node = tape_.nodes[i];
      if (node.runs && dynamic_cast<TBackward0*>(node.node) == nullptr) {
        (is_above(i) ? above : below) += node.bytes;
      }
    }
    // Sweeps of all rows start below a known head, too.
    const plan::PassWork head = below > 0 ? plan::work_of_known_head(tape_, tape_.output) : plan::PassWork();
    if (below > 0 && head.bytes + head.elementwise_bytes >= static_cast<double>(above)) {
      return std::numeric_limits<double>::infinity();
    }
    const auto rows = static_cast<double>(problem_.output.numel());
    const double share = static_cast<double>(below) / static_cast<double>(std::max<int64_t>(tape_.bytes_per_row, 1));
    return rows / static_cast<double>(problem_.output.size(0)) + rows * share;
  }

  std::optional<Cut> cut() {
    for (const Slot& input : problem_.slots) {
      if (samples_.runs[number_of_(input)] > 0) {
        return std::nullopt;
      }
    }
    // What layers make of their operands is computed only where all may be layers.
    const auto may_be = [&](size_t position, size_t, Slot) { return may_be_layer(*tape_.nodes[position].node); };
    const auto add = [&](size_t position, size_t link, Slot operand) { return add_layer(position, link, operand); };
    return are_cuts_all(may_be) && are_cuts_all(add) ? std::optional(std::move(cut_)) : std::nullopt;
  }

 private:
  // Whether nothing leads up, and `is_layer(position, link, operand)` wherever a link leads down.
  template <typename IsLayer>
  bool are_cuts_all(IsLayer&& is_layer) const {
    for (const auto i : c10::irange(tape_.nodes.size())) {
      if (!tape_.nodes[i].runs) {
        continue;
      }
      const auto links = links_of(tape_, tape_.nodes[i]);
      for (const auto k : c10::irange(links.size())) {
        const bool leads_above = links[k].is_on_tape() && is_above(links[k].node);
        const bool is_cut = links[k].is_on_tape() && is_above(i) && !leads_above;
        if ((leads_above && !is_above(i)) || (is_cut && !is_layer(i, k, links[k]))) {
          return false;
        }
      }
    }
    return true;
  }

  bool is_above(size_t position) const {
    return tape_.nodes[position].runs && samples_.has_samples[position];
  }

  bool is_input(Slot slot) const {
    return std::any_of(
        problem_.slots.begin(), problem_.slots.end(), [&](const Slot& input) { return is_same(input, slot); });
  }

  // Returns false where the Node is no layer that takes an operand by its link `link`.
  bool add_layer(size_t position, size_t link, Slot operand) {
    Node& node = *tape_.nodes[position].node;
    const auto dtype = node.input_metadata(0).dtype();
    // Of complex layers the products are by conjugates, and those of a real parameter are cut to their real part.
    const int64_t runs = samples_.runs[number_of_(position, 0)];
    if (!may_be_layer(node) || runs == 0 || !at::isFloatingType(c10::typeMetaToScalarType(dtype)) ||
        !tape::takes_dtype(node, dtype)) {
      return false;
    }
    const auto shape = tape::shape_of(node, 0);
    const auto output = shape.has_value() ? LayerOutput::find(*shape, runs, problem_.output.size(0)) : std::nullopt;
    if (!output.has_value()) {
      return false;
    }
    // A weight is mostly taken by its transpose.
    bool transposed = false;
    Slot source = operand;
    while (dynamic_cast<TBackward0*>(tape_.nodes[source.node].node) != nullptr && !is_input(source)) {
      source = links_of(tape_, tape_.nodes[source.node])[0];
      transposed = !transposed;
    }
    return add_rows(position, link, source, transposed, *output) ||
        (!is_same(source, operand) && add_rows(position, link, operand, /*transposed=*/false, *output));
  }

  bool add_rows(size_t position, size_t link, Slot source, bool transposed, const LayerOutput& output) {
    Node& node = *tape_.nodes[position].node;
    Node& below = *tape_.nodes[source.node].node;
    const bool is_input_alone = !tape_.nodes[source.node].runs;
    const auto shape = tape::shape_of(below, source.input_nr);
    if (!shape.has_value() ||
        (!is_input_alone && below.input_metadata(source.input_nr).dtype() != node.input_metadata(0).dtype())) {
      return false;
    }
    OperandRows rows = operand_rows(node, link, *shape, transposed, output);
    if (!rows) {
      return false;
    }
    const auto [operand, is_new] = operands_.emplace(number_of_(source), cut_.operands.size());
    if (is_new) {
      cut_.operands.push_back({source, is_input_alone});
    }
    // The links of a Node come one after the other.
    if (cut_.outputs.empty() || cut_.outputs.back().function.get() != &node) {
      cut_.outputs.push_back({node.getptr(), 0});
    }
    cut_.layers.push_back({operand->second, cut_.outputs.size() - 1, std::move(rows)});
    return true;
  }

  const OutputProblem& problem_;
  const Tape& tape_;
  const tape::SlotNumbers number_of_;
  const structure::TapeSamples samples_;
  std::unordered_map<size_t, size_t> operands_; // by the number of the slot
  Cut cut_;
};

// Whether every path from the output to an input goes through what may be a layer's operand without samples: seen at
// far less cost than how samples lie.
bool may_be_cut(const OutputProblem& problem) {
  const Tape& tape = problem.tape;
  const int64_t samples = problem.output.size(0);
  std::vector<bool> is_above(tape.nodes.size(), false);
  is_above[tape.output.node] = true;
  for (const auto i : c10::irange(tape.nodes.size())) {
    const tape::TapeNode& node = tape.nodes[i];
    if (!is_above[i]) {
      continue;
    }
    if (!node.runs) {
      return false;
    }
    const int64_t numel = tape::numel_of(*node.node, 0).value_or(0);
    const auto links = links_of(tape, node);
    for (const auto k : c10::irange(links.size())) {
      if (links[k].is_on_tape() && !is_above[links[k].node]) {
        const int64_t behind = tape::numel_of(*tape.nodes[links[k].node].node, links[k].input_nr).value_or(0);
        is_above[links[k].node] = !may_lack_samples(*node.node, k, behind, numel, samples);
      }
    }
  }
  return true;
}

std::optional<Cutter> find(const OutputProblem& problem) {
  if (problem.output.dim() == 0 || problem.output.size(0) < 2 || problem.output.numel() == 0 ||
      problem.inputs.empty() || torch::autograd::AnomalyMode::is_enabled()) {
    return std::nullopt;
  }
  if (!tape::is_plain(problem.output) || !std::all_of(problem.inputs.begin(), problem.inputs.end(), tape::is_plain) ||
      !may_be_cut(problem)) {
    return std::nullopt;
  }
  const int64_t samples = problem.output.size(0);
  auto of_tape = structure::samples_of_tape(problem.tape, samples, problem.output.numel() / samples);
  return of_tape.has_value() ? std::optional<Cutter>(std::in_place, problem, std::move(*of_tape)) : std::nullopt;
}

void add_to(at::Tensor& sum, at::Tensor term) {
  if (!sum.defined()) {
    sum = std::move(term);
  } else if (vjp::is_ours(sum)) {
    sum.add_(term);
  } else {
    sum = at::add(sum, term);
  }
}

// From the rows of an operand, [samples * colors, *its shape], to those of all inputs that it is computed from, which
// are added to `totals`.
void add_rows_below(
    const OutputProblem& problem,
    Slot operand,
    const at::Tensor& rows,
    int64_t samples,
    const CompressedSweeps& sweeps,
    std::vector<at::Tensor>& totals) {
  const Endpoint root = endpoint_of(problem.tape, operand);
  const Tape below = tape::read_tape(root.edge, problem.edges);
  // A pass that samples share has a row of each; it counts as one.
  JacobianOptions options = sweeps.options;
  if (options.chunk_size.has_value()) {
    options.chunk_size = *options.chunk_size * samples;
  }
  options.after_sweep = [&](int64_t, int64_t) { sweeps.progress.add(0); };
  Progress progress(options, rows.size(0));
  std::vector<std::vector<at::Tensor>> chunks(problem.edges.size());
  RowSweeps(root, rows.size(0), rows_of(rows), below, options, /*keep_graph=*/true)
      .run(
          problem.edges,
          [&](int64_t, std::vector<at::Tensor> found) {
            for (const auto j : c10::irange(found.size())) {
              if (found[j].defined()) {
                chunks[j].push_back(std::move(found[j]));
              }
            }
          },
          progress);
  for (const auto j : c10::irange(chunks.size())) {
    if (!chunks[j].empty()) {
      add_to(totals[j], chunks[j].size() == 1 ? std::move(chunks[j][0]) : at::cat(chunks[j]));
    }
  }
}

} // namespace

std::optional<SharedSweeps> shared_sweeps(const OutputProblem& problem, double most) {
  auto cutter = find(problem);
  if (!cutter.has_value() || cutter->cost() > most || !cutter->cut().has_value()) {
    return std::nullopt;
  }
  return SharedSweeps{problem.output.size(0), cutter->cost()};
}

bool run_layer_parameters(
    const OutputProblem& problem,
    const std::vector<JacobianBlock*>& blocks,
    const CompressedSweeps& sweeps) {
  auto cutter = find(problem);
  const auto cut = cutter.has_value() ? cutter->cut() : std::nullopt;
  if (!cut.has_value()) {
    return false;
  }
  const int64_t samples = problem.output.size(0), rows = problem.output.numel();
  structure::Coloring coloring{{}, rows / samples};
  for (const auto row : c10::irange(rows)) {
    coloring.colors.push_back(row % coloring.num_colors);
  }
  const LinearMap map{
      {problem.output},
      {rows},
      cut->outputs,
      {},
      problem.tape.peak_bytes_per_row,
      problem.tape.distrust,
      &problem.tape};
  const std::vector<at::Tensor> cotangents = sweep_colors(map, coloring, sweeps);
  std::vector<at::Tensor> of_operands(cut->operands.size());
  for (const Layer& layer : cut->layers) {
    const at::Tensor& of_output = cotangents[layer.output];
    if (of_output.defined()) {
      add_to(of_operands[layer.operand], layer.rows(of_output));
    }
  }
  std::vector<at::Tensor> totals(blocks.size());
  for (const auto i : c10::irange(of_operands.size())) {
    if (!of_operands[i].defined()) {
      continue;
    }
    const auto& [slot, is_input_alone] = cut->operands[i];
    at::Tensor of_operand = of_operands[i].flatten(0, 1);
    of_operands[i].reset();
    if (!is_input_alone) {
      add_rows_below(problem, slot, of_operand, samples, sweeps, totals);
      continue;
    }
    for (const auto j : c10::irange(blocks.size())) {
      if (is_same(problem.slots[j], slot)) {
        add_to(totals[j], of_operand);
      }
    }
  }
  for (const auto j : c10::irange(blocks.size())) {
    blocks[j]->append(rows, std::move(totals[j]));
  }
  return true;
}

} // namespace highgrad::engine
