#pragma once

#include <torch/csrc/autograd/function.h>

#include <vector>

#include "engine/jacobian_block.h"
#include "engine/options.h"
#include "plan/plan.h"
#include "tape/tape.h"

namespace highgrad::engine {

// One output, and the inputs that it reaches, all with elements: their edges, their Jacobians to be filled.
struct PlannedOutput {
  const at::Tensor& output;
  const tape::Tape& tape;
  const torch::autograd::edge_list& edges;
  const std::vector<JacobianBlock*>& blocks;
};

// Fills the blocks with all rows in reverse mode.
void run_rows(const PlannedOutput& problem, const JacobianOptions& options, bool keep_graph, Progress& progress);

// Fills the blocks as the plan says. Returns false, with the blocks as they were, if that plan does not serve: the
// graph has no double backward, or an entry is not finite.
bool run_plan(
    const plan::OutputPlan& plan,
    const PlannedOutput& problem,
    const JacobianOptions& options,
    bool keep_graph,
    Progress& progress);

} // namespace highgrad::engine
