#include "engine/samples_apart.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/anomaly_mode.h>

#include <cmath>
#include <limits>

#include "engine/linear_map.h"
#include "engine/probe.h"
#include "engine/retained_grads.h"
#include "engine/rounding.h"
#include "engine/without_pattern.h"
#include "ops/joined_shape.h"
#include "plan/chunking.h"
#include "structure/axes.h"
#include "tape/edges.h"
#include "tape/streams.h"

namespace highgrad::engine {
namespace {

/*
Note [Samples that do not mix]
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
Axes that tie all samples of the inputs to those of the output prove it, for all values and all derivatives. Elsewhere
cotangents show it: two for each bit of a sample's number, with marks in the samples that have the bit set, or that have
it not. Any two samples differ in some bit, so that whatever mixes them brings a mark to a sample without one.

NaN as a mark survives all sums and products, whatever the values are that it is multiplied with: where every Node is
known to let it through, nothing else is needed.

Numbers without a pattern leave exact zeros where nothing mixes; a sum of different multiples does not vanish by
accident. They tell of the Jacobian at this point alone, as x[0] * x[1] at zero shows. For derivatives, NaN is sent as
well: what mixes is then missed only if a Node of which nothing is known both hides NaN and mixes by zero. Nodes that
are known to lose NaN, such as a product with several zeros, which does mix by zero, are refused.

Nodes that are not linear, such as a hook that clips a norm, may do to all samples at once what they do to none alone:
the numbers in all samples have to bring what they bring in two parts.

What arrives without any mark, such as 0 * inf, is left out.
*/
enum class Marks { kNan, kNumbers };

// The first two probes.
constexpr int64_t kNone = 0;
constexpr int64_t kAll = 1;

// By probe and sample: none, all, those with each bit, those without.
at::Tensor marked_samples(int64_t samples, at::Device device) {
  const at::Tensor number = at::arange(samples, at::TensorOptions(at::kLong).device(device));
  std::vector<at::Tensor> bits;
  for (int64_t bit = 1; bit < samples; bit <<= 1) {
    bits.push_back(number.bitwise_and(bit).ne(0));
  }
  const at::Tensor with_bit = at::stack(bits);
  const at::Tensor all = at::ones({1, samples}, with_bit.options());
  return at::cat({all.logical_not(), all, with_bit, with_bit.logical_not()});
}

// Whether the marks of no sample arrive at another, and all together bring what they bring apart.
bool are_apart(const std::string& caller, const OutputProblem& problem, int64_t batch_dims, Marks marks) {
  const Samples samples(problem.output, batch_dims);
  const at::TensorOptions options = problem.output.options();
  const at::Tensor marked = marked_samples(samples.count, problem.output.device());
  const at::Tensor cotangent = marks == Marks::kNan
      ? at::full({}, std::numeric_limits<double>::quiet_NaN(), options)
      : numbers_without_pattern(problem.output.numel(), options).view({samples.count, samples.rest});
  const auto seeds = [&](int64_t first, int64_t count) -> std::vector<at::Tensor> {
    const at::Tensor seeded = marked.narrow(0, first, count).unsqueeze(2).expand({count, samples.count, samples.rest});
    return {
        at::where(seeded, cotangent, at::zeros({}, options)).reshape(ops::joined_shape(count, problem.output.sizes()))};
  };
  const LinearMap map = reverse_map(problem);
  std::vector<at::Tensor> unmarked(problem.inputs.size()), whole(problem.inputs.size());
  bool apart = true;
  const auto judge = [&](const std::vector<at::Tensor>& rows, int64_t first, int64_t count) {
    for (const auto j : c10::irange(rows.size())) {
      const at::Tensor& input = problem.inputs[j];
      const at::Tensor all = rows[j].defined() ? rows[j] : at::zeros({count, input.numel()}, input.options());
      const at::Tensor of_samples = all.reshape({count, samples.count, -1});
      const at::Tensor arrived = marks == Marks::kNan ? at::isnan(of_samples) : of_samples.ne(0);
      if (first == kNone) {
        unmarked[j] = arrived[0];
      }
      if (first <= kAll && kAll < first + count) {
        whole[j] = of_samples[kAll - first];
      }
      const at::Tensor may_arrive = marked.narrow(0, first, count).unsqueeze(2).to(all.device());
      at::Tensor wrong = arrived.logical_and(may_arrive.logical_or(unmarked[j]).logical_not());
      if (marks == Marks::kNumbers && whole[j].defined()) {
        const at::Tensor tolerance =
            whole[j].abs().amax({-1}, /*keepdim=*/true).mul(std::sqrt(epsilon_of(all.scalar_type())));
        wrong = wrong.logical_or(of_samples.sub(whole[j]).abs().gt(tolerance).logical_and(may_arrive));
      }
      apart = apart && !wrong.any().item<bool>();
    }
  };
  ProbeSweeps sweeps(
      map,
      plan::automatic_chunk_size(marked.size(0), problem.tape.peak_bytes_per_row, problem.output.device()),
      /*may_loop=*/true);
  TORCH_CHECK(
      sweeps.run(marked.size(0), seeds, judge),
      caller,
      ": expected with batch_dims a graph that can be shown to keep samples apart, got one whose backward fails when it "
      "is probed; call it without batch_dims");
  return apart;
}

bool has_values(const at::Tensor& tensor) {
  return !tensor.is_meta() && !tensor.key_set().has(c10::DispatchKey::Python);
}

} // namespace

void check_samples_apart(
    const std::string& caller,
    const OutputProblem& reached,
    const std::vector<at::Tensor>& inputs,
    int64_t batch_dims,
    bool to_derive) {
  const Samples samples(reached.output, batch_dims);
  const auto axes = structure::analyze_axes(reached.tape);
  bool is_tied = axes.has_value() && axes->not_linear == nullptr;
  for (size_t j = 0; is_tied && j < inputs.size(); ++j) {
    is_tied = !reached.tape.inputs[j].is_on_tape() ||
        structure::keeps_samples_apart(
            axes->inputs[j].upper, samples.count, samples.rest, Samples(inputs[j], batch_dims).rest);
  }
  if (is_tied || samples.count == 1) {
    return;
  }
  std::string at;
  if (axes.has_value()) {
    torch::autograd::Node* mixing = structure::find_mixing_node(reached.tape, samples.rest);
    at = mixing == nullptr ? "" : ": at the latest in " + mixing->name();
  }
  TORCH_CHECK(
      has_values(reached.output),
      caller,
      ": expected with batch_dims tensors with values, or a graph whose operations alone show that they keep samples "
      "apart, got one whose samples may mix",
      at,
      "; call it without batch_dims");
  const bool keeps_nan = axes.has_value() && axes->keeps_nan;
  const bool may_send_nan = !torch::autograd::AnomalyMode::is_enabled();
  TORCH_CHECK(
      !to_derive || (may_send_nan && !(axes.has_value() && axes->loses_nan)),
      caller,
      ": expected with batch_dims a graph that can be shown to keep samples apart, got one whose samples may mix",
      at,
      "; call it without batch_dims, or with create_graph=False and outside of anomaly mode");
  const bool sends_nan = to_derive || (keeps_nan && may_send_nan);
  const bool sends_numbers = !keeps_nan || !may_send_nan;
  const bool apart = (!sends_numbers || are_apart(caller, reached, batch_dims, Marks::kNumbers)) &&
      (!sends_nan || are_apart(caller, reached, batch_dims, Marks::kNan));
  if (axes.has_value() && axes->not_linear != nullptr) {
    at += " (or " + axes->not_linear->name() + ", a custom Function or a Node with hooks, is not linear)";
  }
  TORCH_CHECK(
      apart,
      caller,
      ": expected the first ",
      batch_dims,
      " dims of f and wrt to count independent samples, got samples that mix",
      at);
}

void check_samples_apart(
    const std::string& caller,
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    int64_t batch_dims) {
  const torch::autograd::edge_list edges = tape::edges_of(inputs);
  const std::vector<tape::Tape> tapes = tape::read_tapes(outputs, edges);
  const tape::JoinedStreams streams(tapes);
  RetainedGrads retained_grads;
  for (const tape::Tape& tape : tapes) {
    retained_grads.suspend(tape);
  }
  const at::NoGradGuard no_grad;
  for (const auto i : c10::irange(outputs.size())) {
    const ReachedInputs reached(outputs[i], tapes[i], inputs, edges);
    if (!reached.inputs.empty()) {
      const OutputProblem problem{outputs[i], tapes[i], reached.inputs, reached.edges, reached.slots};
      check_samples_apart(caller, problem, inputs, batch_dims, /*to_derive=*/true);
    }
  }
}

} // namespace highgrad::engine
