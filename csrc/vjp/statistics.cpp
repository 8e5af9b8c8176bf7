// Rules of norms, variances and normalisations.

#include <ATen/Functions.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "vjp/rule.h"

namespace highgrad::vjp {

std::pair<at::Tensor, at::Tensor> recorded_statistics(
    const at::Tensor& x,
    at::IntArrayRef dims,
    const at::Tensor& saved_inverse) {
  const at::Tensor variance = x.var(dims, /*unbiased=*/false, /*keepdim=*/true);
  // Of the saved value, and the derivative that belongs to it.
  return {x.mean(dims, /*keepdim=*/true), (variance + (saved_inverse.pow(-2) - variance).detach()).rsqrt()};
}

namespace {

using namespace torch::autograd::generated;

// Of order 2, x / |x|, and zero at zero, where torch's subgradient is; of order 1, the signs; no other.
BatchedVjp norm(const at::Tensor& x, const at::Tensor& result, const at::Scalar& order, const Shape& kept) {
  if (order.equal(1.0)) {
    return by_factor(kept, x.sgn());
  }
  if (!order.equal(2.0)) {
    return nullptr;
  }
  const at::Tensor length = result.reshape(kept);
  return by_factor(kept, (x / length).masked_fill(length.eq(0), 0));
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

// weight * (x - mean) * inverse + bias.
struct Normalization {
  Shape view; // of x, in which the rest are meant
  std::vector<int64_t> dims; // that the statistics are taken along, from the end; none where they are constants
  std::vector<int64_t> shared_dims; // likewise, along which weight and bias are the same
  at::Tensor weight; // in a shape that broadcasts to the view, or undefined
  at::Tensor mean, inverse; // likewise
  bool gives_statistics = false; // whether mean and inverse are outputs with derivatives
};

// What cotangents of the mean, 1 / n each, and of the inverse deviation, -inverse^3 (x - mean) / n, hand on.
at::Tensor by_statistics(const Normalization& of, const at::Tensor& normalized, const Cotangents& taken) {
  const auto share = static_cast<double>(of.mean.numel()) / static_cast<double>(normalized.numel());
  const auto spread = [&](const at::Tensor& rows, const at::Tensor& factor) {
    return at::mul(rows.reshape(Call::batch_of(rows, of.mean.sizes().vec())), factor.expand(of.view));
  };
  const at::Tensor by_mean = taken[1].defined() ? spread(taken[1], at::full_like(of.mean, share)) : at::Tensor();
  const at::Tensor by_inverse =
      taken[2].defined() ? spread(taken[2], normalized * of.inverse.square() * -share) : at::Tensor();
  return by_mean.defined() && by_inverse.defined() ? by_mean + by_inverse : by_mean.defined() ? by_mean : by_inverse;
}

BatchedVjp normalization(const Call& call, const at::Tensor& input, Normalization of) {
  const at::Tensor x = input.reshape(of.view);
  if (at::GradMode::is_enabled() && !of.dims.empty()) {
    std::tie(of.mean, of.inverse) = recorded_statistics(x, of.dims, of.inverse);
  }
  const at::Tensor normalized = (x - of.mean) * of.inverse;
  return [of, normalized, shapes = call.given](Cotangents& taken, Cotangents& given) {
    if (of.gives_statistics && shapes[0].has_value()) {
      given[0] = by_statistics(of, normalized, taken);
    }
    if (!taken[0].defined()) {
      given[0] = given[0].defined() ? given[0].reshape(Call::batch_of(given[0], *shapes[0])) : at::Tensor();
      return;
    }
    const at::Tensor grad = taken[0].reshape(Call::batch_of(taken[0], of.view));
    const auto shared = [&](const at::Tensor& rows, const Shape& shape) {
      return (of.shared_dims.empty() ? rows : rows.sum(of.shared_dims)).reshape(Call::batch_of(grad, shape));
    };
    if (shapes[1].has_value()) {
      given[1] = shared(at::mul(grad, normalized), *shapes[1]);
    }
    if (shapes[2].has_value()) {
      given[2] = shared(grad, *shapes[2]);
    }
    if (!shapes[0].has_value()) {
      return;
    }
    at::Tensor scaled = of.weight.defined() ? at::mul(grad, of.weight) : grad;
    if (!of.dims.empty()) {
      const at::Tensor along = at::mul(scaled, normalized).mean(of.dims, /*keepdim=*/true);
      scaled = scaled - scaled.mean(of.dims, /*keepdim=*/true) - normalized * along;
    }
    scaled = scaled * of.inverse;
    given[0] = (given[0].defined() ? given[0] + scaled : scaled).reshape(Call::batch_of(grad, *shapes[0]));
  };
}

// Along the last dimensions.
BatchedVjp layer_norm(const Call& call, const NativeLayerNormBackward0& node) {
  const at::Tensor x = call.saved(node.input_);
  const auto inner = static_cast<int64_t>(node.normalized_shape.size());
  Normalization of{x.sizes().vec(), {}, {}, call.saved(node.weight_), call.saved(node.result1_), {}};
  of.inverse = call.saved(node.result2_);
  for (auto dim = -x.dim(); dim < 0; ++dim) {
    (dim < -inner ? of.shared_dims : of.dims).push_back(dim);
  }
  return normalization(call, x, std::move(of));
}

// x * inverse * weight, with the inverse of the root of the mean square along the last dimensions.
BatchedVjp rms_norm(const Call& call, const FusedRmsNormBackward0& node) {
  const at::Tensor x = call.saved(node.input_), weight = call.saved(node.weight_);
  if (x.numel() == 0) {
    return nullptr;
  }
  const auto inner = static_cast<int64_t>(node.normalized_shape.size());
  std::vector<int64_t> dims, shared_dims; // from the end; of the mean, and along which the weight is the same
  for (auto dim = -x.dim(); dim < 0; ++dim) {
    (dim < -inner ? shared_dims : dims).push_back(dim);
  }
  Shape kept = x.sizes().vec();
  std::fill(kept.end() - inner, kept.end(), 1);
  const at::Tensor inverse = call.saved(node.result1_).reshape(kept);
  const at::Tensor normalized = x * inverse;
  const double share = static_cast<double>(inverse.numel()) / static_cast<double>(x.numel());
  return [=, shapes = call.given](Cotangents& taken, Cotangents& given) {
    if (shapes[0].has_value()) {
      // d inverse = -inverse^2 * mean(normalized * dx).
      at::Tensor by_inverse = taken[1].defined() ? taken[1].reshape(Call::batch_of(taken[1], kept)) : taken[1];
      at::Tensor scaled;
      if (taken[0].defined()) {
        scaled = weight.defined() ? at::mul(taken[0], weight) : taken[0];
        const at::Tensor along = at::mul(scaled, x).sum(dims, /*keepdim=*/true);
        by_inverse = by_inverse.defined() ? by_inverse + along : along;
        scaled = at::mul(scaled, inverse);
      }
      if (by_inverse.defined()) {
        const at::Tensor by_mean = at::mul(by_inverse * inverse.square() * -share, normalized);
        given[0] = scaled.defined() ? scaled + by_mean : by_mean;
      }
    }
    if (shapes[1].has_value() && taken[0].defined()) {
      const at::Tensor rows = at::mul(taken[0], normalized);
      given[1] = shared_dims.empty() ? rows : rows.sum(shared_dims);
    }
  };
}

double epsilon_of(const CudnnBatchNormBackward0& node) {
  return node.epsilon;
}

template <typename T>
double epsilon_of(const T& node) {
  return node.eps;
}

// Along all dimensions but the second; or by the running statistics.
template <typename T>
BatchedVjp batch_norm(const Call& call, const T& node) {
  const at::Tensor x = call.saved(node.input_);
  if (x.dim() < 2 || x.numel() == 0) {
    return nullptr;
  }
  const auto of_channels = [](const at::Tensor& tensor) { return tensor.defined() ? tensor.view({-1, 1}) : tensor; };
  Normalization of{{x.size(0), x.size(1), -1}, {}, {-3, -1}, of_channels(call.saved(node.weight_)), {}, {}};
  of.view[2] = x.numel() / (x.size(0) * x.size(1));
  if (node.training) {
    of.dims = of.shared_dims;
    of.mean = of_channels(call.saved(node.result1_));
    of.inverse = of_channels(call.saved(node.result2_));
  } else {
    of.mean = of_channels(call.saved(node.running_mean_));
    of.inverse = (of_channels(call.saved(node.running_var_)) + epsilon_of(node)).rsqrt();
  }
  return normalization(call, x, std::move(of));
}

// Along the channels of a group and all dimensions that follow. Torch 2.14 differentiates the statistics, too.
BatchedVjp group_norm(const Call& call, const NativeGroupNormBackward0& node) {
  const at::Tensor x = call.saved(node.input_);
  const int64_t samples = node.N.guard_int(__FILE__, __LINE__), channels = node.C.guard_int(__FILE__, __LINE__);
  if (x.numel() == 0) {
    return nullptr;
  }
  const at::Tensor weight = call.saved(node.weight_);
  const Shape of_groups{samples, node.group, 1, 1};
  return normalization(
      call,
      x,
      {{samples, node.group, channels / node.group, x.numel() / (samples * channels)},
       {-2, -1},
       {-4, -1},
       weight.defined() ? weight.view({node.group, -1, 1}) : weight,
       call.saved(node.result1_).view(of_groups),
       call.saved(node.result2_).view(of_groups),
       /*gives_statistics=*/true});
}

// v * g / |v|, with the norm of all of v but dimension `dim`.
BatchedVjp weight_norm(const Call& call, const WeightNormInterfaceBackward0& node) {
  const at::Tensor v = call.saved(node.v_);
  const at::Tensor norm = at::GradMode::is_enabled() ? at::norm_except_dim(v, 2, node.dim)
                                                     : call.saved(node.result1_).view_as(call.saved(node.g_));
  const at::Tensor direction = v / norm, scale = call.saved(node.g_) / norm;
  std::vector<int64_t> summed;
  for (const auto dim : c10::irange(v.dim())) {
    if (dim != node.dim) {
      summed.push_back(dim + 1);
    }
  }
  return [=, by_v = call.wants(0), by_g = call.wants(1)](Cotangents& taken, Cotangents& given) {
    const at::Tensor& grad = taken[0];
    if (!grad.defined()) {
      return;
    }
    const at::Tensor along = at::mul(grad, direction).sum(summed, /*keepdim=*/true);
    given[0] = by_v ? at::mul(grad - direction * along, scale) : at::Tensor();
    given[1] = by_g ? along : at::Tensor();
  };
}

} // namespace

void add_statistics_rules(RuleTable& table) {
  add_rule<LinalgVectorNormBackward0>(table, [](const Call& call, const LinalgVectorNormBackward0& node) {
    return norm(call.saved(node.self_), call.saved(node.result_), node.ord, reduced(*call.given[0], dims_of(node)));
  });
  add_rule<NormBackward0>(table, [](const Call& call, const NormBackward0& node) {
    return norm(call.saved(node.self_), call.saved(node.result_), node.p, Shape(call.given[0]->size(), 1));
  });
  add_rule<NormBackward1>(table, [](const Call& call, const NormBackward1& node) {
    const Shape kept = reduced(*call.given[0], at::IntArrayRef(node.dim));
    return norm(call.saved(node.self_), call.saved(node.result_), node.p.value_or(2), kept);
  });
  add_rule<VarBackward0>(table, [](const Call& call, const VarBackward0& node) -> BatchedVjp {
    const Shape kept = reduced(*call.given[0], dims_of(node));
    return by_factor(kept, variance_factor(call.saved(node.self_), dims_of(node), node.correction, kept));
  });
  add_unary<StdBackward0>(table, [](const Call& call, const StdBackward0& node) {
    const Shape kept = reduced(*call.given[0], dims_of(node));
    const at::Tensor twice = call.saved(node.result_).reshape(kept) * 2;
    const at::Tensor factor = variance_factor(call.saved(node.self_), dims_of(node), node.correction, kept);
    const at::Tensor is_kept = twice.ne(0);
    // Nor is the derivative of a quotient that is left out NaN.
    return [kept, is_kept, scale = factor / twice.masked_fill(is_kept.logical_not(), 1)](const at::Tensor& grad) {
      return keep_where(is_kept, at::mul(grad.reshape(Call::batch_of(grad, kept)), scale));
    };
  });
  add_rule<NativeLayerNormBackward0>(table, &layer_norm);
  add_rule<NativeBatchNormBackward0>(table, &batch_norm<NativeBatchNormBackward0>);
  add_rule<NativeBatchNormLegitBackward0>(table, &batch_norm<NativeBatchNormLegitBackward0>);
  add_rule<CudnnBatchNormBackward0>(table, &batch_norm<CudnnBatchNormBackward0>);
  add_rule<FusedRmsNormBackward0>(table, &rms_norm);
  add_rule<NativeGroupNormBackward0>(table, &group_norm);
  add_rule<WeightNormInterfaceBackward0>(table, &weight_norm);
}

} // namespace highgrad::vjp
