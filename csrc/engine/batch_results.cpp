#include <ATen/core/grad_mode.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <c10/util/accumulate.h>
#include <c10/util/irange.h>

#include <optional>
#include <utility>

#include "engine/endpoint.h"
#include "engine/forward_mode.h"
#include "engine/make_plan.h"
#include "engine/recorded_gradients.h"
#include "engine/samples_apart.h"
#include "engine/special_results.h"
#include "engine/sweeps.h"
#include "ops/assemble_rows.h"
#include "ops/joined_shape.h"
#include "tape/plain_tensor.h"

namespace highgrad::engine {
namespace {

std::vector<int64_t> batch_shape(const at::Tensor& output, const at::Tensor& input, int64_t batch_dims) {
  return ops::joined_shape(output.sizes(), input.sizes().slice(batch_dims));
}

// By reached input: [elements of the rest of output, *input.shape], or undefined for zeros.
std::vector<at::Tensor> sample_rows(const SpecialProblem& problem, const Samples& samples) {
  const OutputProblem& reached = problem.reached;
  std::vector<std::vector<at::Tensor>> chunks(reached.edges.size());
  RowSweeps(
      endpoint_of(reached.output),
      samples.rest,
      basis_of(reached.output, problem.options.batch_dims),
      reached.tape,
      problem.options,
      /*keep_graph=*/true)
      .run(
          reached.edges,
          [&](int64_t, std::vector<at::Tensor> rows) {
            for (const auto j : c10::irange(rows.size())) {
              if (rows[j].defined()) {
                chunks[j].push_back(std::move(rows[j]));
              }
            }
          },
          problem.progress);
  std::vector<at::Tensor> all;
  for (auto& of_input : chunks) {
    all.push_back(of_input.empty() ? at::Tensor() : of_input.size() == 1 ? std::move(of_input[0]) : at::cat(of_input));
  }
  return all;
}

// Of one input, from rows [elements of the rest of output, *input.shape], or from columns [elements of the rest of
// input, *output.shape]: batch + rest of output + rest of input, in memory of its own.
at::Tensor samples_first(at::Tensor passes, const SpecialProblem& problem, const at::Tensor& input, bool are_columns) {
  const at::Tensor& output = problem.reached.output;
  const Samples of_output(output, problem.options.batch_dims);
  const Samples of_input(input, problem.options.batch_dims);
  const std::vector<int64_t> shape = batch_shape(output, input, problem.options.batch_dims);
  passes = passes.resolve_conj().resolve_neg();
  if (are_columns) {
    passes = passes.reshape({of_input.rest, of_output.count, of_output.rest}).permute({1, 2, 0});
  } else if (of_output.rest > 1 && of_output.count > 1) {
    passes = passes.reshape({of_output.rest, of_output.count, of_input.rest}).transpose(0, 1);
  }
  if (!passes.is_contiguous() && tape::is_plain(passes)) {
    const at::IntArrayRef of_sample = at::IntArrayRef(shape).slice(problem.options.batch_dims);
    const at::Tensor like = at::empty(of_sample, input.options().layout(at::kStrided));
    const at::Tensor rows = passes.reshape(ops::joined_shape(of_output.count, of_sample));
    return ops::assemble_rows(
        ops::OptionalTensorList({rows}),
        c10::SymIntArrayRef({of_output.count}),
        output.sym_sizes().slice(0, problem.options.batch_dims),
        like);
  }
  passes = passes.to(input.scalar_type()).contiguous();
  if (tape::is_plain(passes) && tape::shares_memory(passes)) {
    passes = passes.clone();
  }
  // Not a view: those made without grad mode must not be changed in place by what requires grad.
  const bool is_result = passes.sizes() == shape && tape::is_plain(passes) && !passes.is_view();
  return is_result ? passes : at::_unsafe_view(passes, shape);
}

// By reached input, as compute_columns() gives them; none where rows are to be computed.
std::optional<std::vector<at::Tensor>> sample_columns(const SpecialProblem& problem, const Samples& samples) {
  const JacobianOptions& options = problem.options;
  int64_t columns = 0;
  for (const at::Tensor& input : problem.reached.inputs) {
    columns += Samples(input, options.batch_dims).rest;
  }
  const plan::OutputPlan plan = plan_samples(problem.reached, options.mode, samples.rest, columns);
  std::optional<std::vector<at::Tensor>> found;
  const int64_t total = problem.progress.total() - problem.reached.output.numel();
  const int64_t done = problem.progress.done();
  problem.progress.expect(total + plan.passes());
  if (plan.needs_double_backward()) {
    found = compute_columns(
        endpoint_of(problem.reached.output), problem.reached.edges, options, problem.progress, options.batch_dims);
    for (size_t j = 0; found.has_value() && j < found->size(); ++j) {
      if ((*found)[j].defined() && !is_finite((*found)[j])) {
        found.reset();
      }
    }
  }
  if (plan.needs_double_backward() && !found.has_value()) {
    problem.progress.expect(total + problem.progress.done() - done + samples.rest);
  }
  if (options.mode == plan::Mode::kForward && !found.has_value()) {
    warn_of_reverse_mode(options, plan.obstacle.empty() ? kNoColumns : plan.obstacle);
  }
  return found;
}

} // namespace

void check_batch_dims(
    const std::string& caller,
    int64_t batch_dims,
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs) {
  TORCH_CHECK_VALUE(batch_dims >= 0, caller, ": expected batch_dims of at least 0, got ", batch_dims);
  const auto check = [&](const char* name, const at::Tensor& tensor, at::IntArrayRef batch) {
    TORCH_CHECK_VALUE(
        tensor.dim() >= batch_dims && tensor.sizes().slice(0, batch_dims) == batch,
        caller,
        ": expected ",
        name,
        " to begin with the same ",
        batch_dims,
        " dims as the first f, batch_dims=",
        batch_dims,
        ", got shape ",
        tensor.sizes());
  };
  for (const at::Tensor& output : outputs) {
    TORCH_CHECK_VALUE(
        output.dim() >= batch_dims,
        caller,
        ": expected f to have at least batch_dims=",
        batch_dims,
        " dims, got shape ",
        output.sizes());
    const at::IntArrayRef batch = outputs[0].sizes().slice(0, batch_dims);
    check("every f", output, batch);
    for (const at::Tensor& input : inputs) {
      check("every wrt", input, batch);
    }
  }
}

void append_batch_jacobians(const SpecialProblem& problem, std::vector<at::Tensor>& results) {
  const Samples samples(problem.reached.output, problem.options.batch_dims);
  std::vector<at::Tensor> passes;
  bool are_columns = false;
  if (!problem.reached.inputs.empty()) {
    const JacobianOptions& options = problem.options;
    check_samples_apart(
        options.caller, problem.reached, problem.inputs, options.batch_dims, /*to_derive=*/options.create_graph);
    if (options.create_graph && samples.rest == 1 && options.mode != plan::Mode::kForward &&
        is_recorded_right(problem.reached.tape)) {
      problem.expect_passes(1);
      // Samples are independent, so that the sum over them loses nothing.
      passes = recorded_gradients(problem.reached, /*keep_graph=*/true, problem.progress);
    } else {
      auto columns = sample_columns(problem, samples);
      are_columns = columns.has_value();
      passes = are_columns ? std::move(*columns) : sample_rows(problem, samples);
    }
  }
  size_t next = 0;
  for (const auto j : c10::irange(problem.inputs.size())) {
    const at::Tensor& input = problem.inputs[j];
    at::Tensor of_input = problem.is_reached[j] ? std::move(passes[next++]) : at::Tensor();
    results.push_back(
        of_input.defined() ? samples_first(std::move(of_input), problem, input, are_columns)
                           : input.new_zeros(batch_shape(problem.reached.output, input, problem.options.batch_dims)));
  }
}

} // namespace highgrad::engine
