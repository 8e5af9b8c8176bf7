#include "engine/make_plan.h"

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/forward_mode.h"
#include "engine/layer_parameters.h"
#include "engine/output_parts.h"
#include "engine/structure_costs.h"
#include "plan/chunking.h"
#include "plan/planner.h"
#include "structure/passes.h"
#include "tape/signature.h"
#include "vjp/program.h"

namespace highgrad::engine {
namespace {

using plan::Mode;
using plan::OutputPlan;

// What a parameter of a layer takes, whose rows are the products of cotangents and inputs of that layer.
constexpr double kNanosecondsPerParameter = 8e3;

// What reading a Node of the tape takes, and all that a kept plan may spend on that.
constexpr double kNanosecondsPerNode = 100;
constexpr double kKeptNanoseconds = 20e6;

// Of the whole, what parts by themselves may take at most: what they share is computed once for each.
constexpr double kMostOfWhole = 0.75;

// Whether sweeps go through torch's engine, or it does not matter to a plan.
bool needs_engine(const OutputProblem& problem, Mode mode, int64_t rows) {
  return mode == Mode::kReverse || rows <= plan::kFewRows || !vjp::Program::covers(problem.tape);
}

// Without structure, of so many rows and columns, which may be those of one sample.
OutputPlan plan_segments(const OutputProblem& problem, Mode mode, int64_t rows, int64_t columns, bool is_sample) {
  plan::Request request{problem.tape, rows, columns, problem.output.device(), mode};
  std::string obstacle;
  if (mode != Mode::kReverse) {
    obstacle = plain_obstacle(problem.output, problem.inputs);
    request.may_forward = obstacle.empty();
    request.may_split = obstacle.empty() && !is_sample;
    request.needs_engine = problem.needs_engine;
  }
  OutputPlan plan = plan::plan_output(request);
  if (!plan.needs_double_backward()) {
    return plan;
  }
  if (obstacle.empty()) {
    obstacle = forward_obstacle(problem.output, problem.tape, problem.inputs);
  }
  if (obstacle.empty()) {
    return plan;
  }
  request.may_forward = false;
  if (mode == Mode::kAuto) {
    return plan::plan_output(request);
  }
  plan = plan::plain_plan(request, Mode::kReverse, "reverse: " + obstacle);
  plan.obstacle = std::move(obstacle);
  return plan;
}

OutputPlan plan_segments(const OutputProblem& problem, Mode mode) {
  return plan_segments(problem, mode, problem.output.numel(), problem.count_columns(), /*is_sample=*/false);
}

// Whether sweeps that all samples share may save more than what it takes to tell samples apart again.
bool saves_by_sharing(const OutputProblem& problem, double cost) {
  if (problem.output.dim() == 0) {
    return false;
  }
  const double least = static_cast<double>(problem.output.numel()) / static_cast<double>(problem.output.size(0));
  const double saved = (cost - least) * StructureCosts(problem).reverse().product;
  return saved > kNanosecondsPerParameter * static_cast<double>(problem.inputs.size());
}

// By what a kept plan is known again.
void describe(const OutputProblem& problem, OutputPlan& plan) {
  plan.rows = problem.output.numel();
  plan.columns = problem.count_columns();
  plan.signature = tape::signature_of(problem.tape);
}

// The tape is read for each part, in no more time than may be lost.
int64_t most_parts(const OutputProblem& problem, const OutputPlan& plan, Effort effort) {
  const double allowed = effort == Effort::kThorough ? std::max(kKeptNanoseconds, plan.nanoseconds)
                                                     : std::max(kFreeNanoseconds, kShareOfDense * plan.nanoseconds);
  return static_cast<int64_t>(allowed / (kNanosecondsPerNode * static_cast<double>(problem.tape.nodes.size())));
}

// Of all parts, each by itself, in rows of reverse mode over the whole tape; infinite unless sweeps are shared in one.
double cost_apart(const OutputProblem& problem, const std::vector<OutputPart>& parts) {
  double cost = 0;
  bool any_shares = false;
  for (const OutputPart& part : parts) {
    const OutputProblem own = part.problem();
    const auto rows = static_cast<double>(own.output.numel());
    const auto shared = own.inputs.empty() ? std::nullopt : shared_sweeps(own, rows);
    any_shares |= shared.has_value();
    cost += (shared.has_value() ? shared->cost : rows) * static_cast<double>(own.tape.bytes_per_row);
  }
  return any_shares ? cost / static_cast<double>(std::max<int64_t>(problem.tape.bytes_per_row, 1))
                    : std::numeric_limits<double>::infinity();
}

// See Note [Outputs in parts].
std::shared_ptr<const OutputPlan> plan_parts(
    const OutputProblem& problem,
    const std::vector<OutputPart>& parts,
    const JacobianOptions& options,
    Effort effort) {
  auto plan = std::make_shared<OutputPlan>();
  std::vector<std::string> reasons;
  for (const OutputPart& part : parts) {
    const OutputProblem own = part.problem();
    plan->parts.push_back(own.inputs.empty() ? plan_zeros(own.output.numel()) : make_plan(own, options, effort));
    const OutputPlan& of_part = *plan->parts.back();
    reasons.push_back(of_part.structure == nullptr ? of_part.reason : "structure: " + of_part.structure->reason);
    if (of_part.bytes_per_row * of_part.chunk_size > plan->bytes_per_row * plan->chunk_size) {
      plan->bytes_per_row = of_part.bytes_per_row;
      plan->chunk_size = of_part.chunk_size;
    }
  }
  reasons.erase(std::unique(reasons.begin(), reasons.end()), reasons.end());
  plan->reason = "in parts: " + c10::Join("; ", reasons);
  if (effort == Effort::kThorough) {
    describe(problem, *plan);
  }
  return plan;
}

} // namespace

OutputPlan plan_samples(const OutputProblem& problem, Mode mode, int64_t rows, int64_t columns) {
  OutputProblem of_sample = problem;
  of_sample.needs_engine = needs_engine(problem, mode, rows);
  return plan_segments(of_sample, mode, rows, columns, /*is_sample=*/true);
}

std::shared_ptr<const OutputPlan> make_plan(
    const OutputProblem& problem,
    const JacobianOptions& options,
    Effort effort) {
  OutputProblem structured = problem;
  structured.needs_engine = needs_engine(problem, options.mode, problem.output.numel());
  auto plan = std::make_shared<OutputPlan>(plan_segments(structured, options.mode));
  structured.work = plan->work;
  const bool is_one_row = effort == Effort::kSmall && problem.output.numel() == 1;
  if (options.use_structure && options.mode != Mode::kForward && !is_one_row) {
    const bool may_share = effort == Effort::kThorough || saves_by_sharing(structured, plan->cost);
    const auto all_rows = static_cast<double>(problem.output.numel());
    const SharedSweeps shared =
        (may_share ? shared_sweeps(problem, plan->cost) : std::nullopt).value_or(SharedSweeps{1, all_rows});
    const std::vector<OutputPart> parts = may_share && shared.samples == 1 && options.layout == at::kStrided
        ? parts_of(problem, most_parts(structured, *plan, effort))
        : std::vector<OutputPart>();
    const double cost_of_parts = cost_apart(problem, parts);
    structured.may_go_forward = options.mode == Mode::kAuto;
    structured.dense_cost = std::min({plan->cost, shared.cost, cost_of_parts});
    if (plan->nanoseconds > 0) {
      structured.dense_nanoseconds = plan->nanoseconds * *structured.dense_cost / plan->cost;
    }
    plan->structure = find_structure(structured, effort);
    const bool has_better = plan->structure != nullptr &&
        structure::kColumnCost * static_cast<double>(structure::num_passes(*plan->structure)) <
            std::min(shared.cost, cost_of_parts);
    if (cost_of_parts < kMostOfWhole * plan->cost && !has_better) {
      return plan_parts(problem, parts, options, effort);
    }
    if (shared.samples > 1 && !has_better) {
      plan->structure = nullptr;
      plan->samples = shared.samples;
      plan->segments = {{problem.tape.output, Mode::kReverse, problem.output.numel(), problem.count_columns()}};
      plan->reason = "parameters of layers: the rows of " + std::to_string(shared.samples) + " samples share passes";
    }
  }
  if (effort == Effort::kThorough) {
    describe(problem, *plan);
    plan->bytes_per_row = problem.tape.peak_bytes_per_row;
    const int64_t passes = plan->structure == nullptr ? plan->segments.front().passes() / plan->samples
                                                      : structure::num_passes(*plan->structure);
    plan->chunk_size = options.chunk_size.has_value()
        ? *options.chunk_size
        : plan::automatic_chunk_size(passes, plan->bytes_per_row, problem.output.device());
  }
  return plan;
}

std::shared_ptr<const OutputPlan> plan_zeros(int64_t rows) {
  auto plan = std::make_shared<OutputPlan>();
  plan->reason = "zero: nothing of wrt is on the graph";
  plan->rows = rows;
  return plan;
}

std::shared_ptr<const OutputPlan> renew_plan(
    const OutputProblem& problem,
    const JacobianOptions& options,
    const std::shared_ptr<const OutputPlan>& kept) {
  const bool is_alike = problem.output.numel() == kept->rows && problem.count_columns() == kept->columns &&
      (problem.inputs.empty() || tape::signature_of(problem.tape) == kept->signature);
  TORCH_CHECK_VALUE(
      is_alike,
      options.caller,
      ": expected a graph like the one that was planned, of ",
      kept->rows,
      " outputs and ",
      kept->columns,
      " inputs, got one of ",
      problem.output.numel(),
      " and ",
      problem.count_columns(),
      " whose operations, shapes, dtypes, hooks or links may differ; plan it anew");
  if (!kept->parts.empty()) {
    const std::vector<OutputPart> parts = parts_of(problem);
    TORCH_INTERNAL_ASSERT(parts.size() == kept->parts.size());
    auto plan = std::make_shared<OutputPlan>(*kept);
    for (const auto k : c10::irange(parts.size())) {
      const OutputProblem part = parts[k].problem();
      plan->parts[k] = part.inputs.empty() ? kept->parts[k] : renew_plan(part, options, kept->parts[k]);
    }
    return plan;
  }
  const bool is_obstructed = !kept->is_plain_reverse() && !plain_obstacle(problem.output, problem.inputs).empty();
  if (kept->structure == nullptr && !is_obstructed) {
    return kept;
  }
  auto plan = std::make_shared<OutputPlan>(is_obstructed ? plan_segments(problem, options.mode) : *kept);
  if (kept->structure != nullptr) {
    OutputProblem structured = problem;
    structured.may_go_forward = options.mode == Mode::kAuto;
    structured.dense_cost = kept->cost;
    plan->structure = renew_structure(options.caller, structured, kept->structure);
  }
  return plan;
}

} // namespace highgrad::engine
