#pragma once

#include <cstdint>
#include <optional>

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

  // Whether the best structure that there may be saves more than what a look at every Node takes, and whether the
  // forecast may be lost.
  bool is_worth_forecast() const;

  // What axes and the forecast take, without windows, and how many positions of windows axes may follow besides;
  // negative where axes are to be left out. More may be lost where the forecast is that there is structure.
  double looks() const;
  int64_t positions_of_axes(bool is_promising) const;

  // Of sweeps of all colours.
  SweepTimes reverse() const;
  SweepTimes forward() const;

  // Of sweeps of a few probes, with their seeds and hits.
  SweepTimes reverse_probes() const;
  SweepTimes forward_probes() const;

  // The Jacobian without structure.
  double dense() const;

  // What the pattern and its entries take for all inputs.
  double of_inputs() const;

 private:
  const plan::Work& work() const;
  // The Jacobian without structure, by a rough estimate where there is no other.
  double rough_dense() const;
  // Of all Nodes, to be run once.
  double dispatch() const;

  const OutputProblem& problem_;
  const plan::CostModel& model_;
  const double nodes_;
  mutable std::optional<plan::Work> work_; // none until it is asked for
};

// What a pattern takes to be handled, if axes tell it, for each row and entry; and for each entry that is coloured.
constexpr double kNanosecondsPerTiedRow = 15;
constexpr double kNanosecondsPerTiedEntry = 9;
constexpr double kNanosecondsPerEntry = 20;

// Of the dense Jacobian's time, or of all, what may be spent where nothing is found: 3 % at most, of estimates that may
// be twice the time. And what may be where structure promises to pay.
constexpr double kShareOfDense = 0.015;
constexpr double kFreeNanoseconds = 15e3;
constexpr double kShareOfPromising = 0.2;

} // namespace highgrad::engine
