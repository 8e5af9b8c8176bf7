#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/ones.h>
#include <c10/util/Exception.h>
#include <c10/util/accumulate.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/anomaly_mode.h>

#include <optional>
#include <utility>

#include "engine/batched_vjp.h"
#include "engine/endpoint.h"
#include "engine/probe.h"
#include "engine/special_results.h"
#include "ops/joined_shape.h"
#include "plan/chunking.h"
#include "structure/axes.h"
#include "tape/plain_tensor.h"

namespace highgrad::engine {
namespace {

// A tensor of samples: how many, and of how many elements each.
struct Samples {
  int64_t count;
  int64_t rest;

  Samples(const at::Tensor& tensor, int64_t batch_dims)
      : count(c10::multiply_integers(tensor.sizes().slice(0, batch_dims))),
        rest(c10::multiply_integers(tensor.sizes().slice(batch_dims))) {}
};

std::vector<int64_t> batch_shape(const at::Tensor& output, const at::Tensor& input, int64_t batch_dims) {
  return ops::joined_shape(output.sizes(), input.sizes().slice(batch_dims));
}

// Two probes a bit of the sample's number: what is in all samples that have the bit set, or not set, may not arrive at
// one of which that is not so. Any two samples differ in some bit. False if it does arrive, or a probe cannot be run.
bool are_apart(const OutputProblem& problem, int64_t batch_dims, bool keeps_nan) {
  const Samples output(problem.output, batch_dims);
  int64_t bits = 0;
  while (int64_t{1} << bits < output.count) {
    ++bits;
  }
  const LinearMap map = reverse_map(problem);
  const int64_t chunk_size = plan::automatic_chunk_size(2, problem.tape.peak_bytes_per_row, problem.output.device());
  const structure::Probe probe =
      keeps_nan ? make_probe(map, chunk_size, /*may_loop=*/true) : make_value_probe(map, chunk_size);
  const int64_t columns = problem.count_columns();
  for (const auto bit : c10::irange(bits)) {
    std::vector<int64_t> group_of_row;
    for (const auto row : c10::irange(problem.output.numel())) {
      group_of_row.push_back(row / output.rest >> bit & 1);
    }
    structure::HitBits hits(2, columns);
    if (!probe(group_of_row, hits)) {
      return false;
    }
    int64_t column = 0;
    for (const at::Tensor& input : problem.inputs) {
      const Samples samples(input, batch_dims);
      for (int64_t element = 0; element < input.numel(); ++element, ++column) {
        const int64_t other = 1 - (element / samples.rest >> bit & 1);
        if (hits.test(other, column)) {
          return false;
        }
      }
    }
  }
  return true;
}

// Axes tell it for all values; NaN wherever it does not get lost, at this point and for all derivatives; and values,
// for the Jacobian at this point alone.
void check_apart(const SpecialProblem& problem) {
  const JacobianOptions& options = problem.options;
  const Samples output(problem.reached.output, options.batch_dims);
  const auto axes = structure::analyze_axes(problem.reached.tape);
  TORCH_CHECK(
      axes.has_value() && axes->not_linear == nullptr,
      options.caller,
      ": expected with batch_dims a graph that can be shown to keep samples apart, got one with ",
      axes.has_value() ? axes->not_linear->name() + ", a custom Function or a Node with hooks" : "unknown shapes",
      ", of which nothing is known; call it without batch_dims");
  bool all_tied = true;
  for (const auto j : c10::irange(problem.inputs.size())) {
    all_tied &= !problem.reached.tape.inputs[j].is_on_tape() ||
        structure::keeps_samples_apart(
            axes->inputs[j].upper, output.count, output.rest, Samples(problem.inputs[j], options.batch_dims).rest);
  }
  if (all_tied) {
    return;
  }
  torch::autograd::Node* mixing = structure::find_mixing_node(problem.reached.tape, output.rest);
  const std::string at = mixing == nullptr ? "" : ": at the latest in " + mixing->name();
  TORCH_CHECK(
      (axes->keeps_nan || !options.create_graph) && !torch::autograd::AnomalyMode::is_enabled(),
      options.caller,
      ": expected with batch_dims a graph that can be shown to keep samples apart, got one whose samples may mix",
      at,
      "; call it without batch_dims, or with create_graph=False and outside of anomaly mode");
  TORCH_CHECK(
      !problem.reached.output.is_meta() && !problem.reached.output.key_set().has(c10::DispatchKey::Python),
      options.caller,
      ": expected with batch_dims tensors with values, or a graph whose operations alone show that they keep samples "
      "apart, got one whose samples may mix",
      at,
      "; call it without batch_dims");
  TORCH_CHECK(
      are_apart(problem.reached, options.batch_dims, axes->keeps_nan),
      options.caller,
      ": expected the first ",
      options.batch_dims,
      " dims of f and wrt to count independent samples, got samples that mix",
      at);
}

// By reached input: the gradient of the sum of all samples of one element each, as torch records it.
std::vector<at::Tensor> recorded_gradients(const SpecialProblem& problem) {
  const at::Tensor& output = problem.reached.output;
  auto rows = plain_vjp(
      {endpoint_of(output).edge},
      {at::ones(output.sizes(), output.options())},
      problem.reached.edges,
      {/*keep_graph=*/true, /*create_graph=*/true});
  problem.progress.add(1);
  return rows;
}

// Whether its memory is also that of another row, as for a sum of two inputs, or of what the graph has saved.
bool has_other_holders(const at::Tensor& row) {
  return row.use_count() > 1 || row.storage().use_count() > (row.is_view() ? 2 : 1);
}

// By reached input: [samples, rest of output, rest of input].
std::vector<at::Tensor> sample_rows(const SpecialProblem& problem, const Samples& samples) {
  structure::Coloring coloring{{}, samples.rest};
  for (const auto row : c10::irange(problem.reached.output.numel())) {
    coloring.colors.push_back(row % samples.rest);
  }
  auto rows = sweep_colors(reverse_map(problem.reached), coloring, {problem.options, problem.progress});
  for (at::Tensor& row : rows) {
    if (row.defined()) {
      row = row.reshape({samples.rest, samples.count, -1}).transpose(0, 1);
    }
  }
  return rows;
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
  std::vector<at::Tensor> rows;
  if (!problem.reached.inputs.empty()) {
    check_apart(problem);
    problem.expect_passes(samples.rest);
    const bool is_one_gradient = samples.rest == 1 && problem.options.create_graph;
    rows = is_one_gradient ? recorded_gradients(problem) : sample_rows(problem, samples);
  }
  size_t next = 0;
  for (const auto j : c10::irange(problem.inputs.size())) {
    const at::Tensor& input = problem.inputs[j];
    const std::vector<int64_t> shape = batch_shape(problem.reached.output, input, problem.options.batch_dims);
    at::Tensor row = problem.is_reached[j] ? std::move(rows[next++]) : at::Tensor();
    if (!row.defined()) {
      results.push_back(input.new_zeros(shape));
      continue;
    }
    row = row.resolve_conj().resolve_neg().to(input.scalar_type()).contiguous();
    if (tape::is_plain(row) && has_other_holders(row)) {
      row = row.clone();
    }
    // Not a view: those made without grad mode must not be changed in place by what requires grad.
    const bool is_result = row.sizes() == shape && tape::is_plain(row) && !row.is_view();
    results.push_back(is_result ? std::move(row) : at::_unsafe_view(row, shape));
  }
}

} // namespace highgrad::engine
