#include "engine/structure_costs.h"

#include <algorithm>
#include <cmath>

namespace highgrad::engine {
namespace {

// What they take for each Node, and axes for each position of a window.
constexpr double kNanosecondsPerForecast = 400;
constexpr double kNanosecondsPerAxes = 600;
constexpr double kNanosecondsPerPosition = 10;

// What a pattern takes to be handled, for each input: on an accelerator a dozen kernels and copies.
constexpr double kNanosecondsPerInput = 15e3;
constexpr double kNanosecondsPerInputThere = 200e3;

// What a sweep of probes takes besides: seeds and hits. A multiplication by a factor takes longer, which few rows read
// from memory, and all once.
constexpr double kNanosecondsPerSweep = 25e3;
constexpr double kProbedMultiplication = 2;

} // namespace

StructureCosts::StructureCosts(const OutputProblem& problem)
    : problem_(problem),
      model_(plan::cost_model(problem.output.device(), problem.needs_engine)),
      nodes_(static_cast<double>(problem.tape.nodes.size())),
      work_(problem.work) {}

const plan::Work& StructureCosts::work() const {
  if (!work_.has_value()) {
    work_.emplace();
    for (const tape::TapeNode& node : problem_.tape.nodes) {
      work_->add(plan::work_of(problem_.tape, node));
    }
  }
  return *work_;
}

double StructureCosts::rough_dense() const {
  return problem_.dense_nanoseconds.value_or(
      model_.node * nodes_ +
      model_.byte * static_cast<double>(problem_.output.numel()) * static_cast<double>(problem_.tape.bytes_per_row));
}

double StructureCosts::looks() const {
  return (kNanosecondsPerForecast + kNanosecondsPerAxes) * nodes_;
}

bool StructureCosts::is_worth_forecast() const {
  // One pass, and an entry in each row and column.
  const auto entries = static_cast<double>(std::max(problem_.output.numel(), problem_.count_columns()));
  const double least = model_.node * nodes_ + of_inputs() + kNanosecondsPerTiedEntry * entries;
  const double dense = rough_dense();
  return dense - least > looks() + kFreeNanoseconds &&
      kNanosecondsPerForecast * nodes_ <= std::max(kFreeNanoseconds, kShareOfDense * dense);
}

int64_t StructureCosts::positions_of_axes(bool is_promising) const {
  const double share = is_promising ? kShareOfPromising : kShareOfDense;
  const double allowed = std::max(kFreeNanoseconds, share * rough_dense()) - looks();
  return static_cast<int64_t>(std::floor(allowed / kNanosecondsPerPosition));
}

double StructureCosts::dispatch() const {
  return model_.node * static_cast<double>(work().nodes);
}

SweepTimes StructureCosts::reverse() const {
  return {0, dispatch(), model_.pass(work().row)};
}

SweepTimes StructureCosts::forward() const {
  return {model_.record(work().nodes), dispatch(), model_.pass(work().column)};
}

SweepTimes StructureCosts::reverse_probes() const {
  plan::PassWork row = work().row;
  row.multiplications *= kProbedMultiplication;
  return {0, kNanosecondsPerSweep + dispatch(), model_.pass(row)};
}

SweepTimes StructureCosts::forward_probes() const {
  plan::PassWork column = work().column;
  column.multiplications *= kProbedMultiplication;
  return {model_.record(work().nodes), kNanosecondsPerSweep + dispatch(), model_.pass(column)};
}

double StructureCosts::dense() const {
  return problem_.dense_nanoseconds.has_value() ? *problem_.dense_nanoseconds
                                                : reverse().of(static_cast<double>(problem_.output.numel()));
}

double StructureCosts::of_inputs() const {
  const double of_each = problem_.output.device().is_cpu() ? kNanosecondsPerInput : kNanosecondsPerInputThere;
  return of_each * static_cast<double>(problem_.inputs.size());
}

} // namespace highgrad::engine
