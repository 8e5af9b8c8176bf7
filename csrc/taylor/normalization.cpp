// Rules of tensors that are centered and scaled by statistics of their own.

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <numeric>
#include <utility>

#include "tape/batch_norm.h"
#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;

struct Standardized {
  Series values, mean, inverse;
};

// (x - mean) / sqrt(variance + epsilon) over dimensions counted from the end. `epsilon` gives it from the variance.
template <typename Epsilon>
Standardized standardize(const Frame& frame, const Series& x, at::IntArrayRef dims, const Epsilon& epsilon) {
  double numel = 1;
  for (const int64_t dim : dims) {
    numel *= static_cast<double>(x[0].size(dim));
  }
  const auto mean_of = [&](const at::Tensor& tensor) { return tensor.sum(dims, true) / numel; };
  const Series mean = x.map(mean_of);
  const Series centered = add(frame, x, mean, -1);
  const Series variance = square(frame, centered).map(mean_of);
  const Series regular = variance.with_value(variance[0] + epsilon(variance[0]));
  const Series inverse = power(frame, regular, -0.5, regular[0].rsqrt());
  return {multiply(frame, centered, inverse), mean, inverse};
}

// y weight + bias, where these have `shape` but for leading dimensions.
Jet scale_and_shift(const Call& c, const Series& y, const at::Tensor& weight, at::IntArrayRef shape) {
  const auto shaped = [&](Jet jet) {
    if (!jet.is_zero()) {
      c10::DimVector whole{jet.rows.size(0)};
      whole.append(shape.begin(), shape.end());
      jet.rows = jet.rows.reshape(whole);
    }
    return jet;
  };
  Series result = y;
  // A weight that the input's derivative does not need is not saved.
  if (weight.defined() || !c.inputs[1].is_zero()) {
    const at::Tensor value = weight.defined() ? weight.reshape(shape) : at::ones(shape, y[0].options());
    const Series factor(c.frame, shaped(c.inputs[1]), value, y[0].dim());
    result = multiply(c.frame, result, factor);
  }
  return add(c.frame, result.jet(c.frame), shaped(c.inputs[2]));
}

std::vector<int64_t> last_dims(int64_t count) {
  std::vector<int64_t> dims(count);
  std::iota(dims.begin(), dims.end(), -count);
  return dims;
}

Jet layer_norm(const Call& c, const NativeLayerNormBackward0& node) {
  const Series x = c.series(0, c.saved(node.input_));
  // The Node did not save epsilon, only the reciprocal deviation, which has no graph of its own.
  const at::Tensor shifted = c.saved(node.result2_).detach().pow(-2);
  const auto epsilon = [&](const at::Tensor& variance) { return (shifted - variance).detach(); };
  const std::vector<int64_t> dims = last_dims(static_cast<int64_t>(node.normalized_shape.size()));
  const at::IntArrayRef shape = x[0].sizes().slice(x[0].dim() - dims.size());
  return scale_and_shift(c, standardize(c.frame, x, dims, epsilon).values, c.saved(node.weight_), shape);
}

// The shape of what belongs to channels, dimension 1 of `rank`.
c10::DimVector channel_shape(int64_t channels, int64_t rank) {
  c10::DimVector shape(rank - 1, 1);
  shape[0] = channels;
  return shape;
}

// With the statistics, which torch 2.14 differentiates, too.
std::vector<Jet> group_norm(const Call& c, const NativeGroupNormBackward0& node) {
  const at::Tensor input = c.saved(node.input_);
  const auto groups = [&](const at::Tensor& tensor, int64_t first) {
    return tensor.unflatten(first + 1, {node.group, -1}).flatten(first + 2);
  };
  Jet jet = c.inputs[0];
  if (!jet.is_zero()) {
    jet.rows = groups(jet.rows, 1);
  }
  const Series x(c.frame, jet, groups(input, 0));
  // Epsilon by the reciprocal deviation, as above: torch 2.14 does not save it either.
  const at::Tensor shifted = c.saved(node.result2_).detach().pow(-2).unsqueeze(-1);
  const auto epsilon = [&](const at::Tensor& variance) { return (shifted - variance).detach(); };
  const Standardized y = standardize(c.frame, x, last_dims(1), epsilon);
  const auto whole = [&](const at::Tensor& tensor) {
    const bool is_value = tensor.dim() == 3;
    c10::DimVector shape(input.sizes());
    if (!is_value) {
      shape.insert(shape.begin(), tensor.size(0));
    }
    return tensor.reshape(shape);
  };
  const auto one_a_group = [](const at::Tensor& tensor) { return tensor.squeeze(-1); };
  return {
      scale_and_shift(c, y.values.map(whole), c.saved(node.weight_), channel_shape(input.size(1), input.dim())),
      y.mean.map(one_a_group).jet(c.frame),
      y.inverse.map(one_a_group).jet(c.frame)};
}

template <typename T>
std::vector<Jet> batch_norm(const Call& c, const T& node) {
  const at::Tensor weight = c.saved(node.weight_);
  const auto rank = static_cast<int64_t>(c.output_shape().size());
  if (!node.training && c.inputs[1].is_zero() && c.inputs[2].is_zero()) {
    // With running statistics, which make it affine.
    at::Tensor slope = (c.saved(node.running_var_) + tape::epsilon_of(node)).rsqrt();
    slope = weight.defined() ? slope * weight : slope;
    return {{c.inputs[0].rows * slope.reshape(channel_shape(slope.numel(), rank)), c.inputs[0].terms}, {}, {}};
  }
  const Series x = c.series(0, c.saved(node.input_));
  const c10::DimVector shape = channel_shape(x[0].size(1), rank);
  if (!node.training) {
    const at::Tensor slope = (c.saved(node.running_var_) + tape::epsilon_of(node)).rsqrt().reshape(shape);
    const at::Tensor mean = c.saved(node.running_mean_).reshape(shape);
    const Series y = x.map([&](const at::Tensor& k) { return k * slope; }).with_value((x[0] - mean) * slope);
    return {scale_and_shift(c, y, weight, shape), {}, {}};
  }
  std::vector<int64_t> dims = last_dims(rank);
  dims.erase(dims.begin() + 1);
  const Standardized y =
      standardize(c.frame, x, dims, [&](const at::Tensor& /*variance*/) { return tape::epsilon_of(node); });
  return {scale_and_shift(c, y.values, weight, shape), {}, {}};
}

// In evaluation a product of input and weight; in training, of statistics of the input too.
template <typename T>
int64_t batch_norm_degree(torch::autograd::Node& node, c10::ArrayRef<int64_t> inputs) {
  const bool is_training = static_cast<T&>(node).training;
  return is_training ? nonlinear_degree(node, inputs) : product_degree(node, inputs);
}

} // namespace

void add_normalization_rules(RuleTable& table) {
  add_rule_of_many<NativeLayerNormBackward0>(
      table, nonlinear_degree, [](const Call& c, const NativeLayerNormBackward0& node) {
        return std::vector<Jet>{layer_norm(c, node), {}, {}};
      });
  add_rule_of_many<NativeGroupNormBackward0>(table, nonlinear_degree, &group_norm);
  add_rule_of_many<NativeBatchNormBackward0>(
      table, batch_norm_degree<NativeBatchNormBackward0>, &batch_norm<NativeBatchNormBackward0>);
  add_rule_of_many<CudnnBatchNormBackward0>(
      table, batch_norm_degree<CudnnBatchNormBackward0>, &batch_norm<CudnnBatchNormBackward0>);
}

} // namespace highgrad::taylor
