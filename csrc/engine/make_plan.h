#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "engine/compressed.h"
#include "engine/options.h"
#include "plan/plan.h"

namespace highgrad::engine {

// The plan for one output, and its structure, if it has one that is worth it.
std::shared_ptr<const plan::OutputPlan> make_plan(
    const OutputProblem& problem,
    const JacobianOptions& options,
    Effort effort);

// The plan for samples that do not mix, of so many rows and columns each: all of either, in sweeps over all samples.
plan::OutputPlan plan_samples(const OutputProblem& problem, plan::Mode mode, int64_t rows, int64_t columns);

// The plan for an output of so many elements that reaches no input.
std::shared_ptr<const plan::OutputPlan> plan_zeros(int64_t rows);

// A kept plan, with its structure found anew if that does not hold for all values. Raises if the tape is not like the
// one that was planned.
std::shared_ptr<const plan::OutputPlan> renew_plan(
    const OutputProblem& problem,
    const JacobianOptions& options,
    const std::shared_ptr<const plan::OutputPlan>& kept);

} // namespace highgrad::engine
