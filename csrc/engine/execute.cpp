#include "engine/execute.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>

#include "engine/check_arguments.h"
#include "engine/compressed.h"
#include "engine/endpoint.h"
#include "engine/forward_mode.h"
#include "engine/jacobian_block.h"
#include "engine/joined_outputs.h"
#include "engine/layer_parameters.h"
#include "engine/make_plan.h"
#include "engine/output_parts.h"
#include "engine/retained_grads.h"
#include "engine/run_plan.h"
#include "engine/special_results.h"
#include "structure/passes.h"
#include "tape/edges.h"
#include "tape/streams.h"
#include "tape/tape.h"

namespace highgrad::engine {
namespace {

using tape::Tape;
using torch::autograd::edge_list;

void release(const std::vector<Tape>& tapes) {
  for (const Tape& tape : tapes) {
    for (const tape::TapeNode& node : tape.nodes) {
      if (node.runs) {
        node.node->release_variables();
      }
    }
  }
}

// Inference mode records nothing, not even what sweeps need. Into an out of its own one can write in that mode alone.
class OutsideInferenceMode {
 public:
  explicit OutsideInferenceMode(const std::optional<std::vector<at::Tensor>>& out) {
    const bool is_needed = out.has_value() &&
        std::any_of(out->begin(), out->end(), [](const at::Tensor& tensor) { return tensor.is_inference(); });
    if (c10::InferenceMode::is_enabled() && !is_needed) {
      guard_.emplace(false);
    }
  }

 private:
  std::optional<c10::InferenceMode> guard_;
};

// What strict=True demands of every pair, in torch's own words.
void check_dependence(bool depends, size_t output, size_t input, const JacobianOptions& options) {
  TORCH_CHECK(
      depends || !options.strict,
      options.caller,
      ": Output ",
      output,
      " of the user-provided function is independent of input ",
      input,
      ". This is not allowed in strict mode.");
}

bool is_empty(const at::Tensor& output, const at::Tensor& input) {
  return output.numel() == 0 || input.numel() == 0;
}

// What strict=True demands of a Jacobian that can be differentiated again, in torch's own words.
void check_varies(
    const at::Tensor& jacobian,
    const at::Tensor& output,
    const at::Tensor& input,
    size_t input_number,
    const JacobianOptions& options) {
  TORCH_CHECK(
      !options.strict || !options.create_graph || jacobian.requires_grad() || is_empty(output, input),
      options.caller,
      ": The jacobian of the user-provided function is independent of input ",
      input_number,
      ". This is not allowed in strict mode when create_graph=True.");
}

// Raises what allow_unused=False and strict=True ask for, in torch's own words, and for an input that was changed in
// place since.
void check_paths(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const std::vector<Tape>& tapes,
    const JacobianOptions& options) {
  for (const auto i : c10::irange(outputs.size())) {
    TORCH_CHECK(
        !options.strict || outputs[i].requires_grad(),
        options.caller,
        ": Output ",
        i,
        " of the user-provided function does not require gradients. The outputs must be computed in a differentiable "
        "manner from the input when running in strict mode.");
    TORCH_CHECK(
        options.allow_unused || outputs[i].requires_grad(),
        options.caller,
        ": element ",
        i,
        " of tensors does not require grad and does not have a grad_fn. Set allow_unused=True to get zeros.");
  }
  for (const auto j : c10::irange(inputs.size())) {
    bool used = false;
    for (const auto i : c10::irange(outputs.size())) {
      if (tapes[i].inputs[j].is_on_tape()) {
        used = true;
        continue;
      }
      check_version(options.caller, endpoint_of(outputs[i]).edge, inputs[j]);
      check_dependence(false, i, j, options);
    }
    TORCH_CHECK(
        used || options.allow_unused || outputs.empty(),
        options.caller,
        ": One of the differentiated Tensors appears to not have been used in the graph. Set allow_unused=True if this "
        "is the desired behavior.");
  }
}

// The Jacobians of one output by all inputs, and those by what it reaches, to be filled.
struct Blocks {
  std::vector<JacobianBlock> all;
  std::vector<JacobianBlock*> reached;

  // out: the tensors to write them into, or none.
  Blocks(
      const at::Tensor& output,
      const std::vector<at::Tensor>& inputs,
      const std::vector<bool>& is_reached,
      bool create_graph,
      at::TensorList out = {}) {
    all.reserve(inputs.size());
    for (const auto j : c10::irange(inputs.size())) {
      const auto place = out.empty() ? std::nullopt : std::optional<at::Tensor>(out[j]);
      all.emplace_back(output, inputs[j], create_graph, place);
      if (is_reached[j]) {
        reached.push_back(&all.back());
      }
    }
  }
};

void run_parts(
    const OutputProblem& problem,
    const plan::OutputPlan& plan,
    const std::vector<JacobianBlock*>& blocks,
    const JacobianOptions& options,
    Progress& progress);

// Fills `blocks` with the Jacobians of one output by the inputs that it reaches, as planned, or else in reverse mode.
void run_output(
    const OutputProblem& problem,
    const plan::OutputPlan& plan,
    const std::vector<JacobianBlock*>& blocks,
    const JacobianOptions& options,
    bool keep_graph,
    Progress& progress) {
  if (!plan.parts.empty()) {
    run_parts(problem, plan, blocks, options, progress);
    return;
  }
  const PlannedOutput planned{problem, blocks};
  const int64_t expected = progress.total();
  const auto expect_passes = [&](int64_t passes) { progress.expect(expected + passes - problem.output.numel()); };
  int64_t done = progress.done();
  if (plan.samples > 1) {
    expect_passes(plan.passes() / plan.samples);
    if (run_layer_parameters(problem, blocks, {options, progress})) {
      return;
    }
  }
  if (plan.structure != nullptr) {
    expect_passes(structure::num_passes(*plan.structure));
    if (run_compressed(problem, *plan.structure, blocks, {options, progress})) {
      return;
    }
  }
  expect_passes(progress.done() - done + plan.passes());
  std::string obstacle = plan.obstacle;
  if (!run_plan(plan, planned, options, keep_graph, progress)) {
    obstacle = kNoColumns;
    expect_passes(progress.done() - done + problem.output.numel());
    run_rows(planned, options, keep_graph, progress);
  }
  if (options.mode == plan::Mode::kForward && !obstacle.empty()) {
    warn_of_reverse_mode(options, obstacle);
  }
}

// Likewise of what the output joins, each by itself. See Note [Outputs in parts].
void run_parts(
    const OutputProblem& problem,
    const plan::OutputPlan& plan,
    const std::vector<JacobianBlock*>& blocks,
    const JacobianOptions& options,
    Progress& progress) {
  const std::vector<OutputPart> parts = parts_of(problem);
  TORCH_INTERNAL_ASSERT(parts.size() == plan.parts.size());
  for (const auto k : c10::irange(parts.size())) {
    const OutputProblem part = parts[k].problem();
    const int64_t rows = part.output.numel();
    std::vector<JacobianBlock*> reached;
    for (const auto j : c10::irange(blocks.size())) {
      if (parts[k].reached()[j]) {
        reached.push_back(blocks[j]);
      } else if (rows > 0) {
        blocks[j]->append(rows, {});
      }
    }
    if (reached.empty()) {
      progress.expect(progress.total() - rows);
    } else {
      run_output(part, *plan.parts[k], reached, options, /*keep_graph=*/true, progress);
    }
  }
}

// The kept plan of an output, or a new one. Structure that makes sparse results small is worth more time.
std::shared_ptr<const plan::OutputPlan> plan_one(
    const OutputProblem& problem,
    const JacobianOptions& options,
    size_t output) {
  if (!options.plans.empty()) {
    return renew_plan(problem, options, options.plans[output]);
  }
  if (problem.inputs.empty()) {
    return plan_zeros(problem.output.numel());
  }
  return make_plan(problem, options, options.layout == at::kStrided ? Effort::kSmall : Effort::kThorough);
}

// The Jacobians of several outputs by sweeps that they share, or none. See Note [Joined outputs].
std::optional<std::vector<at::Tensor>> run_joined(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const edge_list& input_edges,
    const std::vector<Tape>& tapes,
    const JacobianOptions& options,
    Progress& progress) {
  const at::Tensor joined = join_outputs(outputs, tapes, options);
  if (!joined.defined()) {
    return std::nullopt;
  }
  const Tape tape = tape::read_tape(endpoint_of(joined).edge, input_edges);
  const ReachedInputs reached(joined, tape, inputs, input_edges);
  if (!plain_obstacle(joined, reached.inputs).empty()) {
    return std::nullopt;
  }
  const OutputProblem problem{joined, tape, reached.inputs, reached.edges, reached.slots};
  Blocks blocks(joined, inputs, reached.mask, options.create_graph);
  if (!blocks.reached.empty()) {
    run_output(problem, *plan_one(problem, options, 0), blocks.reached, options, /*keep_graph=*/true, progress);
  }
  std::vector<at::Tensor> results(outputs.size() * inputs.size());
  for (const auto j : c10::irange(inputs.size())) {
    const at::Tensor jacobian = blocks.all[j].finish();
    if (!is_finite(jacobian)) {
      progress.expect(progress.done() + progress.total());
      return std::nullopt;
    }
    const std::vector<at::Tensor> parts = split_jacobian(jacobian, outputs, inputs[j]);
    for (const auto i : c10::irange(outputs.size())) {
      results[i * inputs.size() + j] = tapes[i].inputs[j].is_on_tape()
          ? parts[i]
          : JacobianBlock(outputs[i], inputs[j], options.create_graph, std::nullopt).finish();
    }
  }
  return results;
}

} // namespace

std::vector<at::Tensor> full_jacobian(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const JacobianOptions& options,
    const std::optional<std::vector<at::Tensor>>& out) {
  const OutsideInferenceMode outside(out);
  check_arguments(options.caller, outputs, inputs, options.create_graph, options.chunk_size, out);
  check_batch_dims(options.caller, options.batch_dims, outputs, inputs);
  const edge_list input_edges = tape::edges_of(inputs);
  const std::vector<Tape> tapes = tape::read_tapes(outputs, input_edges);
  check_paths(outputs, inputs, tapes, options);

  const tape::JoinedStreams streams(tapes);
  RetainedGrads retained_grads;
  int64_t total_rows = 0;
  for (const auto i : c10::irange(outputs.size())) {
    total_rows += tapes[i].nodes.empty() ? 0 : outputs[i].numel();
    retained_grads.suspend(tapes[i]);
  }

  // With a single row the engine frees the tape itself, as it goes; otherwise it is freed when all rows are there, so
  // that no sweep, and no second try of one, finds it half freed.
  const bool engine_frees = !options.retain_graph && total_rows == 1 && options.mode != plan::Mode::kForward &&
      options.layout == at::kStrided && options.batch_dims == 0;
  const at::AutoGradMode grad_mode(options.create_graph);
  std::vector<at::Tensor> results;
  results.reserve(outputs.size() * inputs.size());
  Progress progress(options, total_rows);
  if (!out.has_value() && !engine_frees) {
    auto joined = run_joined(outputs, inputs, input_edges, tapes, options, progress);
    if (joined.has_value()) {
      if (!options.retain_graph) {
        release(tapes);
      }
      return std::move(*joined);
    }
  }
  for (const auto i : c10::irange(outputs.size())) {
    const ReachedInputs reached(outputs[i], tapes[i], inputs, input_edges);
    const OutputProblem problem{outputs[i], tapes[i], reached.inputs, reached.edges, reached.slots};
    const bool is_strided = options.layout == at::kStrided;
    if (!is_strided || options.batch_dims > 0) {
      const SpecialProblem special{problem, inputs, reached.mask, options, progress};
      if (options.batch_dims > 0) {
        append_batch_jacobians(special, results);
      } else {
        append_sparse_jacobians(special, plan_one(problem, options, i)->structure.get(), results);
      }
      for (const auto j : c10::irange(inputs.size())) {
        check_varies(results[i * inputs.size() + j], outputs[i], inputs[j], j, options);
      }
      continue;
    }
    const auto places =
        out.has_value() ? at::TensorList(*out).slice(i * inputs.size(), inputs.size()) : at::TensorList();
    Blocks blocks(outputs[i], inputs, reached.mask, options.create_graph, places);
    // Of an only row that is recorded there is nothing to plan.
    const bool is_done = options.plans.empty() && options.mode != plan::Mode::kForward && !blocks.reached.empty() &&
        run_recorded_row({problem, blocks.reached}, options, !engine_frees, progress);
    if (!is_done) {
      const auto plan = plan_one(problem, options, i);
      if (!blocks.reached.empty()) {
        run_output(problem, *plan, blocks.reached, options, !engine_frees, progress);
      }
    }
    for (const auto j : c10::irange(inputs.size())) {
      JacobianBlock& jacobian = blocks.all[j];
      check_dependence(jacobian.is_used() || is_empty(outputs[i], inputs[j]), i, j, options);
      results.push_back(jacobian.finish());
      check_varies(results.back(), outputs[i], inputs[j], j, options);
    }
  }
  if (!options.retain_graph && !engine_frees) {
    release(tapes);
  }
  return results;
}

std::vector<std::shared_ptr<const plan::OutputPlan>> plan_jacobian(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const JacobianOptions& options) {
  const OutsideInferenceMode outside(std::nullopt);
  check_arguments(options.caller, outputs, inputs, options.create_graph, options.chunk_size, std::nullopt);
  check_batch_dims(options.caller, options.batch_dims, outputs, inputs);
  const edge_list input_edges = tape::edges_of(inputs);
  const std::vector<Tape> tapes = tape::read_tapes(outputs, input_edges);
  check_paths(outputs, inputs, tapes, options);
  const tape::JoinedStreams streams(tapes);
  RetainedGrads retained_grads;
  for (const Tape& tape : tapes) {
    retained_grads.suspend(tape);
  }
  const at::NoGradGuard no_grad;
  std::vector<std::shared_ptr<const plan::OutputPlan>> plans;
  for (const auto i : c10::irange(outputs.size())) {
    const ReachedInputs reached(outputs[i], tapes[i], inputs, input_edges);
    plans.push_back(
        reached.inputs.empty()
            ? plan_zeros(outputs[i].numel())
            : make_plan(
                  {outputs[i], tapes[i], reached.inputs, reached.edges, reached.slots}, options, Effort::kThorough));
  }
  return plans;
}

void release_graph(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs) {
  release(tape::read_tapes(outputs, tape::edges_of(inputs)));
}

} // namespace highgrad::engine
