#pragma once

#include <vector>

#include "engine/jacobian_block.h"
#include "engine/options.h"
#include "engine/output_problem.h"
#include "plan/plan.h"

namespace highgrad::engine {

// What is to be computed, and the Jacobians to be filled, one an input.
struct PlannedOutput {
  const OutputProblem& problem;
  const std::vector<JacobianBlock*>& blocks;
};

// Fills the blocks with the only row of an output of one element, as torch records it. Returns false, with the blocks
// as they were, for other outputs, where nothing is to be recorded, and where torch records it wrong.
bool run_recorded_row(
    const PlannedOutput& planned,
    const JacobianOptions& options,
    bool keep_graph,
    Progress& progress);

// Fills the blocks with all rows in reverse mode.
void run_rows(const PlannedOutput& planned, const JacobianOptions& options, bool keep_graph, Progress& progress);

// Fills the blocks as the plan says. Returns false, with the blocks as they were, if that plan does not serve: the
// graph has no double backward that is right, or an entry is not finite.
bool run_plan(
    const plan::OutputPlan& plan,
    const PlannedOutput& planned,
    const JacobianOptions& options,
    bool keep_graph,
    Progress& progress);

} // namespace highgrad::engine
