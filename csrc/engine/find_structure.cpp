#include <c10/util/Exception.h>
#include <torch/csrc/autograd/anomaly_mode.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/compressed.h"
#include "engine/forward_mode.h"
#include "engine/probe.h"
#include "engine/structure_costs.h"
#include "plan/chunking.h"
#include "structure/axes.h"
#include "structure/dependencies.h"
#include "structure/forecast.h"
#include "structure/nan_probes.h"
#include "structure/passes.h"
#include "structure/picks.h"
#include "tape/plain_tensor.h"
#include "tape/streams.h"

namespace highgrad::engine {
namespace {

using structure::AxisAnalysis;
using structure::Compression;
using structure::Digits;
using structure::Forecast;

// Single rows that tell whether a Jacobian is dense: at most so many, one of so many, and for a share of what may be
// lost in all.
constexpr int64_t kMostSamples = 4;
constexpr int64_t kRowsPerSample = 128;
constexpr double kShareOfSamples = 0.5;

// What a step of the sets that flow along the tape takes; and what they may take where the dense Jacobian is cheap, but
// the structure is kept.
constexpr double kNanosecondsPerStep = 1.5;
constexpr double kKeptNanoseconds = 20e6;

// Of what a dense Jacobian is estimated to take, what one by the ties of axes may: estimates are rough.
constexpr double kMostOfDense = 0.7;

// A structure that does not halve the passes is not worth its indices.
constexpr int64_t kLeastGain = 2;

// So many times fewer colours than rows are few: what else there is to be found is within their pattern.
constexpr int64_t kGoodGain = 8;

constexpr int64_t kFirstBlocks = 16;
constexpr int64_t kFewestFirstBlocks = 4;
constexpr int64_t kBlocksPerSample = 4;
constexpr int64_t kWideBlocks = 4;

// At most so many of the columns, and of the passes that they may save, are full ones.
constexpr int64_t kMostFull = 16;

// With so many times as many rows as columns, columns are probed first; and with so many times as many row colours as
// entries in a row, columns may need fewer.
constexpr int64_t kTall = 4;

// Probes one by one, where torch.vmap cannot go, take a share of the rows one by one only when there are so many.
constexpr int64_t kManyMoreRows = 1024;

// Past this many rows, a second first sweep, over blocks of every n-th row, costs next to nothing.
constexpr int64_t kManyRows = 4096;

bool may_compress(const OutputProblem& problem) {
  const auto is_odd = [&](const at::Tensor& tensor) {
    return !tape::is_plain(tensor) || tensor.is_meta() || tensor.layout() != at::kStrided ||
        tensor.device() != problem.output.device() || tensor.numel() == 0;
  };
  return problem.output.numel() > 1 && !problem.inputs.empty() && !is_odd(problem.output) &&
      std::none_of(problem.inputs.begin(), problem.inputs.end(), is_odd) &&
      !torch::autograd::AnomalyMode::is_enabled() && !tape::is_captured(problem.output.device());
}

// The ties of the inputs that the tape reaches, in the problem's order; their lower ones where `lower` and known.
std::optional<std::vector<Digits>> ties_of(const OutputProblem& problem, const AxisAnalysis& axes, bool lower) {
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

// Of the Jacobian, so that there may be a structure that is worth its indices.
bool are_few_entries(const OutputProblem& problem, double entries) {
  return entries * static_cast<double>(kLeastGain) <=
      static_cast<double>(problem.output.numel()) * static_cast<double>(problem.count_columns());
}

class Search {
 public:
  // The forecast is for a single call.
  Search(const OutputProblem& problem, const AxisAnalysis& axes, Effort effort, const Forecast& forecast = {})
      : problem_(problem),
        axes_(axes),
        effort_(effort),
        forecast_(forecast),
        costs_(problem),
        rows_(problem.output.numel()),
        columns_(problem.count_columns()),
        upper_(*ties_of(problem, axes, false)) {}

  // What axes tell costs nothing; probes may tell more, unless the same axes show that there is no more.
  std::shared_ptr<const Compression> run() {
    const int64_t colors = structure::colors_of_ties(rows_, upper_);
    const std::optional<std::vector<Digits>> lower = ties_of(problem_, axes_, true);
    const bool has_more = !lower.has_value() || structure::colors_of_ties(rows_, *lower) * 2 * kLeastGain <= colors;
    if (!has_more && colors * kLeastGain > rows_) {
      return nullptr;
    }
    // Without more structure: the rows that axes leave, or a plan that knows none.
    const SweepTimes times = costs_.reverse();
    auto passes = static_cast<double>(colors);
    if (is_thorough()) {
      passes = std::min(passes, problem_.dense_cost.value_or(passes));
    } else {
      passes = std::clamp((costs_.dense() - times.dispatch) / times.product, 1.0, passes);
    }
    dense_ = times.of(passes);
    allowed_ = std::max(kFreeNanoseconds, kShareOfDense * dense_) - costs_.looks();
    std::shared_ptr<Compression> result;
    if (has_more && may_be_found(colors)) {
      const bool are_few = is_thorough() && !is_tall() && colors * kGoodGain <= rows_;
      result = are_few && axes_.keeps_nan ? narrow() : nullptr;
      result = result == nullptr ? from_sets(passes) : result;
      if (!are_few && axes_.keeps_nan && (result == nullptr || (is_thorough() && !is_good(*result, passes)))) {
        result = better(result, probe(passes));
      }
    }
    if (result == nullptr && colors * kLeastGain <= rows_) {
      result = from_ties(passes);
    }
    if (result != nullptr) {
      result->signature = axes_.signature;
    }
    return result;
  }

 private:
  bool is_thorough() const {
    return effort_ == Effort::kThorough;
  }

  // Looked at when it matters: it takes a walk along the tape.
  bool may_go_forward() const {
    if (!may_go_forward_.has_value()) {
      may_go_forward_ =
          problem_.may_go_forward && forward_obstacle(problem_.output, problem_.tape, problem_.inputs).empty();
    }
    return *may_go_forward_;
  }

  bool is_tall() const {
    return rows_ >= kTall * columns_ && may_go_forward();
  }

  // A kept structure is chosen by its passes alone, whatever the size of this one problem; but on an accelerator what
  // is recorded for columns takes far longer than passes do.
  structure::ColoringLimits coloring_limits() const {
    structure::ColoringLimits limits{may_go_forward()};
    limits.is_thorough = is_thorough();
    if (!is_thorough() || !problem_.output.device().is_cpu()) {
      const SweepTimes times = costs_.forward();
      const double row = costs_.reverse().product;
      limits.recording_cost = std::max(1.0, (times.setup + times.dispatch + times.product) / row);
      limits.column_cost = times.product / row;
    }
    return limits;
  }

  // What the passes of a structure may cost, which is to take so much time, its entries included.
  double most_passes(double nanoseconds, double of_entries) const {
    const SweepTimes times = costs_.reverse();
    return (nanoseconds - costs_.of_inputs() - of_entries - times.dispatch) / times.product;
  }

  // Of sets in a single call, which take time themselves.
  double most_passes_of_sets(double entries) const {
    return most_passes(dense_ / static_cast<double>(kLeastGain), kNanosecondsPerEntry * entries);
  }

  // Not in a single call where the pattern takes longer to be handled than its passes save.
  std::shared_ptr<Compression> from_ties(double passes) const {
    double most = std::numeric_limits<double>::infinity();
    if (!is_thorough()) {
      const double handling = kNanosecondsPerTiedRow * static_cast<double>(rows_) +
          kNanosecondsPerTiedEntry * structure::entries_of_ties(rows_, upper_);
      most = std::min(passes, most_passes(kMostOfDense * costs_.dense(), handling));
      if (most < 1) {
        return nullptr;
      }
    }
    auto found = structure::compression_of_ties(rows_, upper_, coloring_limits(), most);
    if (!found.has_value()) {
      return nullptr;
    }
    auto result = std::make_shared<Compression>(std::move(*found));
    result->reason = "axes that the tape ties to those of the output";
    return result;
  }

  bool is_good(const Compression& found, double passes) const {
    return coloring_limits().cost_of(found) * static_cast<double>(kGoodGain) <= passes;
  }

  // What holds for all values, unless the other, which may be null, takes far less.
  std::shared_ptr<Compression> better(std::shared_ptr<Compression> lasting, std::shared_ptr<Compression> other) const {
    const auto cost = [&](const Compression& found) { return coloring_limits().cost_of(found); };
    const bool is_other = lasting == nullptr || (other != nullptr && cost(*other) * kLeastGain <= cost(*lasting));
    return is_other ? other : lasting;
  }

  // Whether to look at more than axes, of which the rows have so many colours. A single call does where sets are
  // forecast to be small, or rows are seen to be sparse: looking in vain must cost next to nothing.
  bool may_be_found(int64_t colors) {
    if (is_thorough()) {
      return true;
    }
    const bool are_few = colors * kGoodGain <= rows_;
    if (are_few && kShareOfDense * dense_ <= kFreeNanoseconds) {
      return false;
    }
    const auto rows = static_cast<double>(rows_);
    const double entries = std::min(forecast_.columns * rows, structure::entries_of_ties(rows_, upper_));
    if (!are_few_entries(problem_, entries)) {
      return are_samples_sparse();
    }
    // Rows that one column is in take a pass each, and so do columns that one row has.
    double least = forecast_.share * rows;
    const structure::ColoringLimits limits = coloring_limits();
    if (limits.may_use_columns) {
      least = std::min(least, limits.cost_of_columns(static_cast<int64_t>(entries / rows)));
    }
    return least <= most_passes_of_sets(entries);
  }

  // Whether a few rows have so few columns that not even full ones among the passes would be too many.
  bool are_samples_sparse() {
    const int64_t samples = std::min(kMostSamples, rows_ / kRowsPerSample);
    const double cost = costs_.reverse_probes().of(static_cast<double>(samples));
    if (samples == 0 || !axes_.keeps_nan || cost > kShareOfSamples * allowed_) {
      return false;
    }
    allowed_ -= cost;
    std::vector<int64_t> group_of_row(rows_, -1);
    for (int64_t s = 0; s < samples; ++s) {
      group_of_row[rows_ * (2 * s + 1) / (2 * samples)] = s;
    }
    const LinearMap map = reverse_map(problem_);
    structure::HitBits hits(samples, columns_);
    if (!probe_of(map, samples)(group_of_row, hits)) {
      return false;
    }
    for (int64_t s = 0; s < samples; ++s) {
      std::vector<int64_t>& columns = sampled_.emplace_back();
      hits.for_each(s, [&](int64_t column) { columns.push_back(column); });
    }
    return hits.count(samples) * 2 * kLeastGain <= samples * columns_;
  }

  // What flows along the tape: see structure's Note [Sets of columns].
  std::shared_ptr<Compression> from_sets(double passes) {
    const double allowed =
        is_thorough() ? std::max(kKeptNanoseconds, dense_) : std::max(kFreeNanoseconds, kShareOfPromising * dense_);
    const auto steps = static_cast<int64_t>(allowed / kNanosecondsPerStep);
    int64_t steps_left = steps;
    auto pattern = structure::dependency_pattern(problem_.tape, steps_left);
    if (!pattern.has_value()) {
      allowed_ -= kNanosecondsPerStep * static_cast<double>(steps - steps_left);
    }
    if (!pattern.has_value() || pattern->nnz() * kLeastGain > rows_ * columns_) {
      return nullptr;
    }
    const structure::ColoringLimits limits = coloring_limits();
    double most = passes / static_cast<double>(kLeastGain);
    if (!is_thorough()) {
      most = most_passes_of_sets(static_cast<double>(pattern->nnz()));
      if (limits.least_cost_of(*pattern) > most) {
        return nullptr;
      }
    }
    auto colored = structure::color_pattern(std::move(*pattern), {}, std::nullopt, limits);
    if (!colored.has_value() || limits.cost_of(*colored) > most) {
      return nullptr;
    }
    auto result = std::make_shared<Compression>(std::move(*colored));
    result->reason = "elements that the tape picks and combines";
    result->is_global = axes_.indices.empty();
    if (is_thorough() && !result->is_global) {
      result->reason += ", for these indices";
      result->indices = structure::copy_indices(axes_.indices);
    }
    return result;
  }

  // What axes leave, less what one probe for each of its colours shows to be zero. That a pattern holds for all values
  // is worth more than what is zero at this point alone.
  std::shared_ptr<Compression> narrow() const {
    if (!axes_.is_global) {
      return nullptr;
    }
    Compression ties = *structure::compression_of_ties(rows_, upper_, {/*may_use_columns=*/false});
    const LinearMap map = reverse_map(problem_);
    auto narrowed = structure::narrow_pattern(ties.pattern, ties.coloring, probe_of(map, ties.coloring.num_colors));
    if (!narrowed.has_value()) {
      return nullptr;
    }
    const structure::ColoringLimits limits = coloring_limits();
    const int64_t probes = ties.coloring.num_colors;
    auto colored = structure::color_pattern(*narrowed, {}, std::nullopt, limits);
    if (!colored.has_value() || limits.cost_of(*colored) > static_cast<double>(probes)) {
      // Those of windows may be fewer than any that were found for what is left.
      colored = structure::color_pattern(std::move(*narrowed), {}, std::move(ties.coloring), limits);
    }
    if (!colored.has_value()) {
      return nullptr;
    }
    auto result = std::make_shared<Compression>(std::move(*colored));
    result->reason =
        "axes that the tape ties to those of the output, and " + std::to_string(probes) + " probes in 1 sweep";
    result->is_global = true;
    return result;
  }

  std::shared_ptr<Compression> probe(double passes) const {
    std::shared_ptr<Compression> result = is_tall() ? probe_columns(passes) : probe_rows(passes);
    // A second search is for those who want a structure at a price.
    if (result == nullptr && is_thorough()) {
      result = is_tall() ? probe_rows(passes) : may_go_forward() ? probe_columns(passes) : nullptr;
    }
    return result;
  }

  // The budget for probes of so many rows, if what they find may replace so many passes; none if they are not to be
  // tried.
  std::optional<structure::ProbeBudget> plan_probes(int64_t count, double passes, const SweepTimes& times) const {
    structure::ProbeBudget budget;
    if (is_thorough()) {
      budget.max_full_columns = may_go_forward() ? static_cast<int64_t>(passes) / kMostFull : 0;
      budget.first_blocks = std::min(kFirstBlocks, std::max<int64_t>(2, count / 4));
      budget.max_probes = count;
      budget.max_colors = static_cast<int64_t>(passes) / kLeastGain;
      return budget;
    }
    const double allowed = allowed_ - times.setup - times.dispatch;
    const double blocks = allowed / times.product * kBlocksPerSample / (kBlocksPerSample + 1);
    if (blocks < static_cast<double>(kFewestFirstBlocks)) {
      return std::nullopt;
    }
    budget.max_full_columns = may_go_forward() ? static_cast<int64_t>(passes) / kMostFull : 0;
    budget.first_blocks = static_cast<int64_t>(std::min(blocks, static_cast<double>(kFirstBlocks)));
    budget.samples = budget.first_blocks / kBlocksPerSample;
    // A sweep of its own, if there is room for both: what is dense costs few probes then.
    const double room = (allowed - times.dispatch) / times.product;
    if (room >= static_cast<double>(kWideBlocks + budget.samples + kFirstBlocks)) {
      budget.wide_blocks = kWideBlocks;
    }
    budget.max_probes = static_cast<int64_t>(passes / 3);
    budget.max_colors = static_cast<int64_t>(passes) / (2 * kLeastGain);
    budget.sweep_cost = times.dispatch / times.product;
    budget.entry_cost = kNanosecondsPerEntry / times.product;
    return budget;
  }

  structure::Probe probe_of(const LinearMap& map, int64_t most) const {
    return make_probe(
        map,
        plan::automatic_chunk_size(most, map.peak_bytes_per_row, problem_.output.device()),
        is_thorough() || rows_ >= kManyMoreRows);
  }

  std::shared_ptr<Compression> probe_rows(double passes) const {
    auto budget = plan_probes(rows_, passes, costs_.reverse_probes());
    if (!budget.has_value()) {
      return nullptr;
    }
    budget->max_full_columns = std::min(budget->max_full_columns, columns_ / kMostFull);
    budget->sampled = sampled_;
    const LinearMap map = reverse_map(problem_);
    const structure::Probe probe = probe_of(map, budget->max_probes);
    auto found = structure::find_pattern(rows_, columns_, {}, *budget, probe);
    const bool has_axes = problem_.output.dim() > 1 && problem_.output.size(-1) > 1;
    if (!found.has_value() && has_axes && (is_thorough() || rows_ >= kManyRows)) {
      found = structure::find_pattern(rows_, columns_, last_axis_first(problem_.output), *budget, probe);
    }
    return found.has_value() ? color(std::move(*found), *budget, "", axes_.is_global) : nullptr;
  }

  std::shared_ptr<Compression> probe_columns(double passes) const {
    auto budget = plan_probes(columns_, passes, costs_.forward_probes());
    if (!budget.has_value() || columns_ < 2) {
      return nullptr;
    }
    budget->max_full_columns = 0;
    const std::optional<ForwardMap> forward = forward_map(problem_);
    if (!forward.has_value() || !forward->keeps_nan) {
      return nullptr;
    }
    const structure::Probe probe = probe_of(forward->map, budget->max_probes);
    auto found = structure::find_pattern(columns_, rows_, {}, *budget, probe);
    if (!found.has_value()) {
      return nullptr;
    }
    found->pattern = structure::transpose(found->pattern);
    found->coloring.reset();
    return color(std::move(*found), *budget, " of columns", axes_.is_global && forward->is_global);
  }

  std::shared_ptr<Compression> color(
      structure::ProbedPattern found,
      const structure::ProbeBudget& budget,
      const char* of_what,
      bool is_global) const {
    auto colored = structure::color_pattern(
        std::move(found.pattern), std::move(found.full_columns), std::move(found.coloring), coloring_limits());
    if (!colored.has_value() || coloring_limits().cost_of(*colored) > static_cast<double>(budget.max_colors)) {
      return nullptr;
    }
    auto result = std::make_shared<Compression>(std::move(*colored));
    result->reason = "found by " + std::to_string(found.probes) + " probes" + of_what + " in " +
        std::to_string(found.sweeps) + " sweeps";
    result->is_global = is_global;
    return result;
  }

  // Every n-th row together, for outputs whose last axis is the one that the Jacobian is diagonal along.
  static std::vector<int64_t> last_axis_first(const at::Tensor& output) {
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

  const OutputProblem& problem_;
  const AxisAnalysis& axes_;
  const Effort effort_;
  const Forecast forecast_;
  const StructureCosts costs_;
  const int64_t rows_;
  const int64_t columns_;
  const std::vector<Digits> upper_; // of what axes tell
  mutable std::optional<bool> may_go_forward_;
  std::vector<std::vector<int64_t>> sampled_; // columns of rows that were probed by themselves
  double dense_ = 0; // nanoseconds without more structure
  double allowed_ = 0; // of a single call, to find more
};

} // namespace

std::shared_ptr<const Compression> find_structure(const OutputProblem& problem, Effort effort) {
  if (!may_compress(problem)) {
    return nullptr;
  }
  Forecast forecast;
  int64_t positions = 0;
  if (effort == Effort::kSmall) {
    const StructureCosts costs(problem);
    if (!costs.is_worth_forecast()) {
      return nullptr;
    }
    forecast = structure::forecast_columns(problem.tape);
    const double entries = forecast.columns * static_cast<double>(problem.output.numel());
    positions = costs.positions_of_axes(are_few_entries(problem, entries));
    if (forecast.are_rows_alike || positions < 0) {
      return nullptr;
    }
  }
  const std::optional<AxisAnalysis> axes = structure::analyze_axes(
      problem.tape, effort == Effort::kSmall ? structure::Detail::kTies : structure::Detail::kAll, positions);
  return axes.has_value() && axes->is_known ? Search(problem, *axes, effort, forecast).run() : nullptr;
}

std::shared_ptr<const Compression> renew_structure(
    const std::string& caller,
    const OutputProblem& problem,
    std::shared_ptr<const Compression> kept) {
  const std::optional<AxisAnalysis> axes = structure::analyze_axes(problem.tape, structure::Detail::kSignature);
  TORCH_CHECK_VALUE(
      axes.has_value() && axes->is_known && axes->signature == kept->signature &&
          problem.output.numel() == kept->pattern.rows && problem.count_columns() == kept->pattern.columns,
      caller,
      ": expected a graph like the one that was planned, got one whose operations, shapes or links differ; plan it anew");
  if (!may_compress(problem)) {
    return nullptr;
  }
  const bool picks_the_same = !kept->indices.empty() && structure::same_indices(kept->indices, axes->indices);
  return kept->is_global || picks_the_same ? kept : find_structure(problem, Effort::kThorough);
}

} // namespace highgrad::engine
