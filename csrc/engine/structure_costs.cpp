#include "engine/structure_costs.h"

#include <algorithm>

namespace highgrad::engine {
namespace {

// What the forecast and axes take for each Node.
constexpr double kNanosecondsPerLook = 600;

// What a sweep of probes takes besides: seeds and hits. A multiplication by a factor takes longer, which few rows read
// from memory, and all once.
constexpr double kNanosecondsPerSweep = 25e3;
constexpr double kProbedMultiplication = 2;

} // namespace

StructureCosts::StructureCosts(const OutputProblem& problem)
    : problem_(problem),
      model_(plan::cost_model(problem.output.device(), problem.needs_engine)),
      nodes_(static_cast<double>(problem.tape.nodes.size())) {}

const plan::Work& StructureCosts::work() const {
  if (!has_work_) {
    for (const tape::TapeNode& node : problem_.tape.nodes) {
      work_.add(plan::work_of(problem_.tape, node));
    }
    has_work_ = true;
  }
  return work_;
}

bool StructureCosts::is_worth_a_look() const {
  const double look = kNanosecondsPerLook * nodes_;
  const double dense = problem_.dense_nanoseconds.value_or(
      model_.node * nodes_ +
      model_.byte * static_cast<double>(problem_.output.numel()) * static_cast<double>(problem_.tape.bytes_per_row));
  // One pass, and an entry in each row and column.
  const auto entries = static_cast<double>(std::max(problem_.output.numel(), problem_.count_columns()));
  const double least = model_.node * nodes_ + kNanosecondsOfTies + kNanosecondsPerTiedEntry * entries;
  return dense - least > look + kFreeNanoseconds && look <= std::max(kFreeNanoseconds, kShareOfDense * dense);
}

SweepTimes StructureCosts::reverse() const {
  return {0, model_.node * nodes_, model_.pass(work().row)};
}

SweepTimes StructureCosts::forward() const {
  return {model_.record(work().nodes), model_.node * nodes_, model_.pass(work().column)};
}

SweepTimes StructureCosts::reverse_probes() const {
  plan::PassWork row = work().row;
  row.multiplications *= kProbedMultiplication;
  return {0, kNanosecondsPerSweep + model_.node * nodes_, model_.pass(row)};
}

SweepTimes StructureCosts::forward_probes() const {
  plan::PassWork column = work().column;
  column.multiplications *= kProbedMultiplication;
  return {model_.record(work().nodes), kNanosecondsPerSweep + model_.node * nodes_, model_.pass(column)};
}

double StructureCosts::dense() const {
  return problem_.dense_nanoseconds.has_value() ? *problem_.dense_nanoseconds
                                                : reverse().of(static_cast<double>(problem_.output.numel()));
}

} // namespace highgrad::engine
