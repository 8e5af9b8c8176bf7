#include <c10/util/Exception.h>
#include <torch/csrc/autograd/anomaly_mode.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/compressed.h"
#include "engine/probe.h"
#include "plan/chunking.h"
#include "structure/axes.h"
#include "structure/nan_probes.h"

namespace highgrad::engine {
namespace {

using structure::AxisAnalysis;
using structure::Compression;
using structure::Digits;

// Below this many bytes of cotangents, all rows together, a dense Jacobian takes about as long as finding out.
constexpr int64_t kLeastBytes = int64_t{1} << 18;

// Of the dense Jacobian's time, or of all, what probes may take that find nothing.
constexpr double kShareOfDense = 0.03;
constexpr double kFreeNanoseconds = 30e3;

// What a batched sweep takes, in nanoseconds: a Node, and a byte of cotangents.
constexpr double kNanosecondsPerNode = 5e3;
constexpr double kNanosecondsPerByte = 0.15;

// Colouring steps for each entry.
constexpr int64_t kColoringSteps = 256;

// A structure that does not halve the passes is not worth its indices.
constexpr int64_t kLeastGain = 2;

constexpr int64_t kFirstBlocks = 16;
constexpr int64_t kFewestFirstBlocks = 4;

// Past this many rows, a second first sweep, over blocks of every n-th row, costs next to nothing.
constexpr int64_t kManyRows = 4096;

bool may_compress(const CompressedProblem& problem) {
  constexpr c10::DispatchKeySet kWrapped(
      {c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::Python});
  const auto is_odd = [&](const at::Tensor& tensor) {
    return tensor.key_set().has_any(kWrapped) || tensor.is_meta() || tensor.layout() != at::kStrided ||
        tensor.device() != problem.output.device() || tensor.numel() == 0;
  };
  return problem.output.numel() > 1 && !problem.inputs.empty() && !is_odd(problem.output) &&
      std::none_of(problem.inputs.begin(), problem.inputs.end(), is_odd) &&
      problem.tape.distrust != tape::Distrust::kValues && !torch::autograd::AnomalyMode::is_enabled();
}

int64_t count_columns(const CompressedProblem& problem) {
  return std::accumulate(
      problem.inputs.begin(), problem.inputs.end(), int64_t{0}, [](int64_t sum, const at::Tensor& input) {
        return sum + input.numel();
      });
}

// The ties of the inputs that the tape reaches, in the problem's order; their lower ones where `lower` and known.
std::optional<std::vector<Digits>> ties_of(const CompressedProblem& problem, const AxisAnalysis& axes, bool lower) {
  std::vector<Digits> ties;
  for (size_t j = 0; j < axes.inputs.size(); ++j) {
    if (!problem.tape.inputs[j].is_on_tape()) {
      continue;
    }
    if (!lower) {
      ties.push_back(axes.inputs[j].upper);
    } else if (axes.inputs[j].lower.has_value()) {
      ties.push_back(*axes.inputs[j].lower);
    } else {
      return std::nullopt;
    }
  }
  return ties;
}

// The budget for probes that may replace a Jacobian in `rows` passes, or none if they are not to be tried.
std::optional<structure::ProbeBudget> plan_probes(const CompressedProblem& problem, int64_t rows, Effort effort) {
  structure::ProbeBudget budget;
  if (effort == Effort::kThorough) {
    budget.first_blocks = std::min(kFirstBlocks, std::max<int64_t>(2, problem.output.numel() / 4));
    budget.max_probes = problem.output.numel();
    budget.max_colors = rows / kLeastGain;
    return budget;
  }
  const double dispatch = kNanosecondsPerNode * static_cast<double>(problem.tape.nodes.size());
  const double row = kNanosecondsPerByte * static_cast<double>(problem.tape.bytes_per_row);
  const double dense = dispatch + row * static_cast<double>(rows);
  const double allowed = std::max(kFreeNanoseconds, kShareOfDense * dense);
  const double blocks = std::min((allowed - dispatch) / row, static_cast<double>(kFirstBlocks));
  if (blocks < static_cast<double>(kFewestFirstBlocks)) {
    return std::nullopt;
  }
  budget.first_blocks = static_cast<int64_t>(blocks);
  budget.max_probes = rows / 3;
  budget.max_colors = rows / (2 * kLeastGain);
  return budget;
}

// Every n-th row together, for outputs whose last axis is the one that the Jacobian is diagonal along.
std::vector<int64_t> last_axis_first(const at::Tensor& output) {
  const int64_t inner = output.size(-1);
  const int64_t outer = output.numel() / inner;
  std::vector<int64_t> row_at;
  row_at.reserve(output.numel());
  for (int64_t i = 0; i < inner; ++i) {
    for (int64_t o = 0; o < outer; ++o) {
      row_at.push_back(o * inner + i);
    }
  }
  return row_at;
}

std::shared_ptr<Compression> probe_structure(
    const CompressedProblem& problem,
    const AxisAnalysis& axes,
    const structure::ProbeBudget& budget,
    Effort effort) {
  const int64_t rows = problem.output.numel();
  const structure::Probe probe = make_probe(
      problem.output,
      problem.inputs,
      problem.edges,
      plan::automatic_chunk_size(budget.max_probes, problem.tape.peak_bytes_per_row, problem.output.device()));
  const int64_t columns = count_columns(problem);
  auto found = structure::find_pattern(rows, columns, {}, budget, probe);
  const bool has_axes = problem.output.dim() > 1 && problem.output.size(-1) > 1;
  if (!found.has_value() && has_axes && (effort == Effort::kThorough || rows >= kManyRows)) {
    found = structure::find_pattern(rows, columns, last_axis_first(problem.output), budget, probe);
  }
  if (!found.has_value()) {
    return nullptr;
  }
  auto result = std::make_shared<Compression>();
  // Only a plan that is kept gets the time that more orders than one take.
  const structure::SparsityPattern transposed = structure::transpose(found->pattern);
  const int64_t limit = kColoringSteps * (found->pattern.nnz() + columns);
  auto coloring = structure::color_rows(
      found->pattern,
      transposed,
      effort == Effort::kThorough ? limit : std::min(limit, structure::greedy_work(transposed)));
  if (!coloring.has_value() || coloring->num_colors > budget.max_colors) {
    return nullptr;
  }
  result->reason =
      "found by " + std::to_string(found->probes) + " probes in " + std::to_string(found->sweeps) + " sweeps";
  result->pattern = std::move(found->pattern);
  result->coloring = std::move(*coloring);
  result->is_global = axes.is_global;
  return result;
}

// For a problem that may be compressed, and axes that are known.
std::shared_ptr<const Compression> find_by_axes(
    const CompressedProblem& problem,
    const AxisAnalysis& axes,
    Effort effort) {
  const int64_t rows = problem.output.numel();
  // What axes tell costs nothing; probes may tell more, unless the same axes show that there is no more.
  std::shared_ptr<Compression> result;
  const std::vector<Digits> upper = *ties_of(problem, axes, false);
  const int64_t tied = structure::rows_a_color(rows, upper);
  const std::optional<std::vector<Digits>> lower = ties_of(problem, axes, true);
  const bool has_more = !lower.has_value() || structure::rows_a_color(rows, *lower) >= 2 * kLeastGain * tied;
  const auto budget = has_more ? plan_probes(problem, rows / tied, effort) : std::nullopt;
  if (budget.has_value()) {
    result = probe_structure(problem, axes, *budget, effort);
  }
  if (result == nullptr && tied >= kLeastGain) {
    result = std::make_shared<Compression>(*structure::compression_of_ties(rows, upper));
    result->reason = "axes that the tape ties to those of the output";
  }
  if (result != nullptr) {
    result->signature = axes.signature;
  }
  return result;
}

} // namespace

std::shared_ptr<const Compression> find_structure(const CompressedProblem& problem, Effort effort) {
  if (!may_compress(problem) ||
      (effort == Effort::kSmall && problem.output.numel() * problem.tape.bytes_per_row < kLeastBytes)) {
    return nullptr;
  }
  const std::optional<AxisAnalysis> axes = structure::analyze_axes(problem.tape);
  return axes.has_value() && axes->is_known ? find_by_axes(problem, *axes, effort) : nullptr;
}

std::shared_ptr<const Compression> renew_structure(
    const std::string& caller,
    const CompressedProblem& problem,
    std::shared_ptr<const Compression> kept) {
  const std::optional<AxisAnalysis> axes = structure::analyze_axes(problem.tape);
  TORCH_CHECK_VALUE(
      axes.has_value() && axes->is_known && axes->signature == kept->signature &&
          problem.output.numel() == kept->pattern.rows && count_columns(problem) == kept->pattern.columns,
      caller,
      ": expected a graph like the one that was planned, got one whose operations, shapes or links differ; plan it anew");
  if (!may_compress(problem)) {
    return nullptr;
  }
  return kept->is_global ? kept : find_by_axes(problem, *axes, Effort::kThorough);
}

} // namespace highgrad::engine
