#include "taylor/gradients.h"

#include <ATen/Dispatch.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensordot.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/accumulate.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>

#include "engine/batched_vjp.h"
#include "engine/execute.h"
#include "engine/recorded_gradients.h"
#include "engine/retained_grads.h"
#include "ops/joined_shape.h"
#include "tape/edges.h"
#include "tape/plain_tensor.h"
#include "tape/tape.h"
#include "taylor/coefficients.h"

namespace highgrad::taylor {
namespace {

using engine::JacobianOptions;
using Tensors = std::vector<at::Tensor>;

// Directions that are compared with the unit vectors, at most: what is saved is one small product.
constexpr int64_t kLargestBasis = 32;

// Whether gradients of so many elements a sample are cheaper than `count` derivatives by jets.
bool suit(const Tensors& outputs, int64_t samples, int64_t count) {
  if (samples == 0) {
    return false;
  }
  int64_t elements = 0;
  for (const at::Tensor& output : outputs) {
    if (!output.requires_grad()) {
      return false;
    }
    elements += output.numel() / samples;
  }
  return elements > 0 && (elements < count || (elements == 1 && count == 1));
}

// How many leading dimensions hold independent samples: those of the caller, or the first one, where the graph proves
// that.
int64_t count_batch_dims(const Tensors& outputs, const Tensors& inputs, int64_t batch_dims) {
  if (batch_dims > 0) {
    return batch_dims;
  }
  const int64_t count = outputs[0].dim() > 0 ? outputs[0].size(0) : 1;
  const auto has_count = [&](const at::Tensor& tensor) { return tensor.dim() > 0 && tensor.size(0) == count; };
  const bool have_count = count > 1 && std::all_of(outputs.begin(), outputs.end(), has_count) &&
      std::all_of(inputs.begin(), inputs.end(), has_count);
  return have_count && keeps_samples_apart(outputs, inputs, count, /*everywhere=*/false) ? 1 : 0;
}

at::Tensor reshaped(const at::Tensor& tensor, at::IntArrayRef shape) {
  return tensor.sizes() == shape ? tensor : tensor.reshape(shape);
}

// By input: of one element a sample [samples, width], of several [elements, samples, width].
Tensors gradients(const at::Tensor& output, const Tensors& inputs, int64_t samples, const JacobianOptions& options) {
  Tensors blocks;
  const torch::autograd::Edge edge = tape::edge_of(output);
  const torch::autograd::edge_list edges = tape::edges_of(inputs);
  const tape::Tape tape = tape::read_tape(edge, edges);
  const bool is_single = output.numel() == samples && (!options.create_graph || engine::is_recorded_right(tape));
  if (is_single) {
    engine::RetainedGrads retained_grads;
    retained_grads.suspend(tape);
    blocks = engine::plain_vjp({edge}, {at::ones_like(output)}, edges, {/*keep_graph=*/true, options.create_graph});
  } else {
    // Samples are independent, so that the sum over them loses nothing.
    at::Tensor row;
    {
      const at::AutoGradMode recording(true);
      row = output.reshape({samples, -1}).sum(0);
    }
    JacobianOptions of_row = options;
    of_row.batch_dims = 0;
    blocks = engine::full_jacobian({row}, inputs, of_row, std::nullopt);
  }
  for (const auto j : c10::irange(inputs.size())) {
    const int64_t width = inputs[j].numel() / samples;
    if (!blocks[j].defined()) {
      blocks[j] = at::zeros_like(inputs[j]);
    } else if (tape::shares_memory(blocks[j])) {
      blocks[j] = blocks[j].clone(at::MemoryFormat::Contiguous);
    }
    if (is_single) {
      blocks[j] = reshaped(blocks[j], {samples, width});
    } else {
      blocks[j] = reshaped(blocks[j], {output.numel() / samples, samples, width});
    }
  }
  return blocks;
}

// Whether these few directions are the unit vectors in order. A GPU is not waited for.
bool is_identity(const at::Tensor& directions) {
  const int64_t count = directions.size(0);
  if (!directions.is_cpu() || !tape::is_plain(directions) || directions.is_neg() || directions.requires_grad() ||
      count > kLargestBasis || count != directions.size(1)) {
    return false;
  }
  return AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, directions.scalar_type(), "is_identity", [&] {
    const auto entries = directions.accessor<scalar_t, 2>();
    for (const auto i : c10::irange(count)) {
      for (const auto j : c10::irange(count)) {
        if (entries[i][j] != static_cast<scalar_t>(i == j)) {
          return false;
        }
      }
    }
    return true;
  });
}

// `rows` as gradients() gives them: [D, samples] or [D, elements, samples].
at::Tensor along(const at::Tensor& rows, const at::Tensor& directions, int64_t batch_dims) {
  const int64_t count = directions.size(0);
  const int64_t samples = rows.size(-2), width = rows.size(-1);
  const at::IntArrayRef by_sample = directions.strides().slice(1, batch_dims);
  if (std::any_of(by_sample.begin(), by_sample.end(), [](int64_t stride) { return stride != 0; })) {
    c10::DimVector shape{count};
    shape.append(rows.dim() - 2, 1);
    shape.append({samples, width});
    return (rows * directions.reshape(shape).to(rows.scalar_type())).sum(-1);
  }
  at::Tensor shared = directions;
  for ([[maybe_unused]] const auto dim : c10::irange(batch_dims)) {
    shared = shared.select(1, 0);
  }
  shared = reshaped(shared, {count, width}).to(rows.scalar_type());
  if (rows.dim() == 3) {
    return at::tensordot(shared, rows, {1}, {2});
  }
  return is_identity(shared) ? rows.t() : shared.mm(rows.t());
}

// A view that was made without grad mode must not be changed in place by what requires grad.
at::Tensor as_result(const at::Tensor& tensor, bool create_graph) {
  return create_graph || !tensor.is_view() ? tensor : tensor.clone();
}

} // namespace

std::optional<Tensors> first_partials(
    const Tensors& outputs,
    const Tensors& inputs,
    const std::vector<int64_t>& variables,
    const JacobianOptions& options) {
  const int64_t batch_dims = options.batch_dims;
  const int64_t samples = c10::multiply_integers(outputs[0].sizes().slice(0, batch_dims));
  // Where the samples are not the caller's, a variable is an element of one of them alone.
  if (!suit(outputs, samples, static_cast<int64_t>(variables.size())) ||
      count_batch_dims(outputs, inputs, batch_dims) != batch_dims) {
    return std::nullopt;
  }
  // Of the inputs that hold a variable alone.
  Tensors held;
  std::vector<std::pair<size_t, int64_t>> places;
  std::vector<int64_t> position(inputs.size(), -1);
  for (int64_t variable : variables) {
    size_t j = 0;
    for (; variable >= inputs[j].numel() / samples; ++j) {
      variable -= inputs[j].numel() / samples;
    }
    if (position[j] < 0) {
      position[j] = static_cast<int64_t>(held.size());
      held.push_back(inputs[j]);
    }
    places.emplace_back(position[j], variable);
  }
  const at::AutoGradMode grad_mode(options.create_graph);
  Tensors results;
  for (const at::Tensor& output : outputs) {
    const Tensors blocks = gradients(output, held, samples, options);
    for (const auto& [j, variable] : places) {
      at::Tensor by_sample = blocks[j];
      if (by_sample.numel() > output.numel()) { // else the only column of one element a sample
        by_sample = by_sample.select(-1, variable);
      }
      by_sample = output.numel() > samples ? by_sample.reshape({-1, samples}).t() : by_sample;
      at::Tensor result = reshaped(by_sample, output.sizes()).to(inputs[0].scalar_type());
      results.push_back(as_result(result, options.create_graph));
    }
  }
  return results;
}

std::optional<Tensors> first_along(
    const Tensors& outputs,
    const Tensors& inputs,
    const Tensors& directions,
    const JacobianOptions& options) {
  Tensors moved, along_moved;
  for (const auto j : c10::irange(inputs.size())) {
    if (directions[j].defined()) {
      moved.push_back(inputs[j]);
      along_moved.push_back(directions[j]);
    }
  }
  const int64_t batch_dims = count_batch_dims(outputs, inputs, options.batch_dims);
  const int64_t samples = c10::multiply_integers(outputs[0].sizes().slice(0, batch_dims));
  const int64_t count = along_moved[0].size(0);
  if (!suit(outputs, samples, count)) {
    return std::nullopt;
  }
  const at::AutoGradMode grad_mode(options.create_graph);
  Tensors results;
  for (const at::Tensor& output : outputs) {
    const Tensors blocks = gradients(output, moved, samples, options);
    at::Tensor total;
    for (const auto j : c10::irange(moved.size())) {
      const at::Tensor term = along(blocks[j], along_moved[j], batch_dims).to(inputs[0].scalar_type());
      total = total.defined() ? total + term : term;
    }
    const at::Tensor by_sample = total.dim() == 3 ? total.transpose(1, 2) : total;
    results.push_back(reshaped(by_sample, ops::joined_shape(count, output.sizes())));
  }
  return results;
}

std::optional<Tensors> sample_jacobians(const Tensors& outputs, const Tensors& inputs, const JacobianOptions& options) {
  const int64_t batch_dims = options.batch_dims;
  const int64_t samples = c10::multiply_integers(outputs[0].sizes().slice(0, batch_dims));
  const auto has_rows = [&](const at::Tensor& output) { return output.requires_grad() && output.numel() > 0; };
  if (!std::all_of(outputs.begin(), outputs.end(), has_rows)) {
    return std::nullopt;
  }
  const at::AutoGradMode grad_mode(options.create_graph);
  Tensors results;
  for (const at::Tensor& output : outputs) {
    Tensors blocks = gradients(output, inputs, samples, options);
    for (const auto j : c10::irange(inputs.size())) {
      const auto shape = ops::joined_shape(output.sizes(), inputs[j].sizes().slice(batch_dims));
      const at::Tensor rows = blocks[j].dim() == 3 ? blocks[j].transpose(0, 1) : blocks[j];
      at::Tensor block = reshaped(rows, shape);
      block = block.resolve_conj().resolve_neg().to(inputs[j].scalar_type());
      results.push_back(as_result(block, options.create_graph));
    }
  }
  return results;
}

} // namespace highgrad::taylor
