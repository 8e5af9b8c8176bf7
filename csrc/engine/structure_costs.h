#pragma once

#include <cstdint>

#include "engine/output_problem.h"
#include "plan/cost.h"

namespace highgrad::engine {

// What sweeps over a map take, in nanoseconds: before the first, each, and each of its products.
struct SweepTimes {
  double setup;
  double dispatch;
  double product;

  double of(double products) const {
    return setup + dispatch + products * product;
  }
};

// What looking for the structure of one output may cost, and save, by the model that dense Jacobians are planned by.
class StructureCosts {
 public:
  explicit StructureCosts(const OutputProblem& problem);

  // Whether the best structure that there may be saves more than what a look at every Node takes.
  bool is_worth_a_look() const;

  // Of sweeps of all colours.
  SweepTimes reverse() const;
  SweepTimes forward() const;

  // Of sweeps of a few probes, with their seeds and hits.
  SweepTimes reverse_probes() const;
  SweepTimes forward_probes() const;

  // The Jacobian without structure.
  double dense() const;

 private:
  const plan::Work& work() const;

  const OutputProblem& problem_;
  const plan::CostModel& model_;
  const double nodes_;
  mutable plan::Work work_; // of a row; none until it is asked for
  mutable bool has_work_ = false;
};

// What a pattern that axes tell takes to be handled: by itself, and for each entry.
constexpr double kNanosecondsOfTies = 15e3;
constexpr double kNanosecondsPerTiedEntry = 9;

// Of the dense Jacobian's time, or of all, what may be spent where nothing is found.
constexpr double kShareOfDense = 0.03;
constexpr double kFreeNanoseconds = 30e3;

} // namespace highgrad::engine
