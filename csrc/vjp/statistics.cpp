// Rules of norms, variances and normalisations.

#include <ATen/Functions.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// The derivative of a reduction along some dimensions: the cotangents, with size 1 there, times a factor.
BatchedVjp by_factor(Shape kept, at::Tensor factor) {
  return [kept = std::move(kept), factor = std::move(factor)](Cotangents& taken, Cotangents& given) {
    given[0] = at::mul(taken[0].reshape(Call::batch_of(taken[0], kept)), factor);
  };
}

// x / |x|, and zero at zero, where torch's subgradient is.
BatchedVjp euclidean_norm(const at::Tensor& x, const at::Tensor& result, const Shape& kept) {
  const at::Tensor norm = result.reshape(kept);
  return by_factor(kept, (x / norm).masked_fill(norm.eq(0), 0));
}

// The variance's derivative, 2 (x - mean) / (n - correction).
at::Tensor variance_factor(
    const at::Tensor& x,
    at::OptionalIntArrayRef dims,
    const std::optional<at::Scalar>& correction,
    const Shape& kept) {
  int64_t count = x.numel();
  for (const int64_t size : kept) {
    count /= std::max<int64_t>(size, 1);
  }
  const double freedom = static_cast<double>(count) - correction.value_or(1).toDouble();
  const at::Tensor mean = dims.has_value() && !dims->empty() ? x.mean(*dims, /*keepdim=*/true) : x.mean();
  return (x - mean) * (2 / freedom);
}

// y = g * normalized(x) + b, of which the mean and the deviation are saved, without a graph.
BatchedVjp layer_norm(const Call& call, const NativeLayerNormBackward0& node) {
  const at::Tensor x = call.saved(node.input_);
  const at::Tensor weight = call.saved(node.weight_);
  std::vector<int64_t> dims;
  for (auto dim = -static_cast<int64_t>(node.normalized_shape.size()); dim < 0; ++dim) {
    dims.push_back(dim);
  }
  at::Tensor mean = call.saved(node.result1_), inverse = call.saved(node.result2_);
  if (at::GradMode::is_enabled()) {
    mean = x.mean(dims, /*keepdim=*/true);
    const at::Tensor variance = x.var(dims, /*unbiased=*/false, /*keepdim=*/true);
    // Of the saved value, and the derivative that belongs to it.
    inverse = (variance + (inverse.pow(-2) - variance).detach()).rsqrt();
  }
  const at::Tensor normalized = (x - mean) * inverse;
  return [=, by_x = call.wants(0), by_weight = call.wants(1), by_bias = call.wants(2)](
             Cotangents& taken, Cotangents& given) {
    if (!taken[0].defined()) {
      return;
    }
    const at::Tensor& grad = taken[0];
    given[2] = by_bias ? grad : at::Tensor();
    given[1] = by_weight ? at::mul(grad, normalized) : at::Tensor();
    if (by_x) {
      const at::Tensor scaled = weight.defined() ? at::mul(grad, weight) : grad;
      const at::Tensor along = at::mul(scaled, normalized).mean(dims, /*keepdim=*/true);
      given[0] = (scaled - scaled.mean(dims, /*keepdim=*/true) - normalized * along) * inverse;
    }
  };
}

} // namespace

void add_statistics_rules(RuleTable& table) {
  add_rule<LinalgVectorNormBackward0>(table, [](const Call& call, const LinalgVectorNormBackward0& node) -> BatchedVjp {
    if (!node.ord.equal(2.0)) {
      return nullptr;
    }
    const Shape kept = reduced(*call.given[0], dims_of(node));
    return euclidean_norm(call.saved(node.self_), call.saved(node.result_), kept);
  });
  add_rule<VarBackward0>(table, [](const Call& call, const VarBackward0& node) -> BatchedVjp {
    const Shape kept = reduced(*call.given[0], dims_of(node));
    return by_factor(kept, variance_factor(call.saved(node.self_), dims_of(node), node.correction, kept));
  });
  add_rule<NativeLayerNormBackward0>(
      table, [](const Call& call, const NativeLayerNormBackward0& node) { return layer_norm(call, node); });
}

} // namespace highgrad::vjp
