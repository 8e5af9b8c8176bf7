// Rules of norms of vectors, and of distances, which are norms of differences.

#include <ATen/TensorOperators.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/norm_except_dim.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/triu_indices.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;
using torch::autograd::Node;

// The norm of order p over dimensions counted from the end, whose value is `result`, and zeros where that is zero, as
// torch's derivatives have it.
Series norm_of(
    const Frame& frame,
    const Series& x,
    double p,
    const at::Tensor& result,
    at::IntArrayRef dims,
    bool keepdim) {
  const auto sums = [&](const Series& terms) {
    return terms.map([&](const at::Tensor& k) { return dims.empty() ? k : k.sum(dims, keepdim); });
  };
  if (p == 2) {
    const at::Tensor is_zero = result == 0;
    const Series norm = sqrt(frame, sums(square(frame, x)), at::where(is_zero, at::ones_like(result), result));
    return norm.map([&](const at::Tensor& k) { return at::where(is_zero, at::zeros_like(k), k); });
  }
  const at::Tensor sign = x[0].sign();
  const Series size = x.map([&](const at::Tensor& k) { return k * sign; });
  if (p == 1) {
    return sums(size);
  }
  if (p != std::floor(p) || p < 1 || p > 16) {
    throw Unsupported("a norm whose order is no small natural number");
  }
  const at::Tensor is_zero = result == 0;
  const Series powers = sums(natural_power(frame, size, static_cast<int64_t>(p)));
  const Series regular = powers.with_value(at::where(is_zero, at::ones_like(powers[0]), powers[0]));
  const Series norm = power(frame, regular, 1 / p, regular[0].pow(1 / p));
  return norm.map([&](const at::Tensor& k) { return at::where(is_zero, at::zeros_like(k), k); });
}

Jet norm(
    const Call& c,
    const at::Tensor& self,
    const at::Tensor& result,
    double p,
    at::OptionalIntArrayRef dim,
    bool keepdim) {
  const std::vector<int64_t> dims = dims_from_end(dim, self.dim());
  return norm_of(c.frame, c.series(0, self), p, result, dims, keepdim).jet(c.frame);
}

// The coefficients, but not the value, of a series.
template <typename Map>
Series map_terms(const Series& series, Map map) {
  Series mapped(series[0]);
  for (int64_t k = 1; k <= series.terms(); ++k) {
    mapped.push(series[k].defined() ? map(series[k]) : series[k]);
  }
  return mapped;
}

// Of an operand that broadcasts to `dim` dimensions: those of coefficients stand behind the first.
Series aligned(const Series& series, int64_t dim) {
  return map_terms(series, [&](const at::Tensor& k) { return align(k, dim); });
}

// The distance of one tensor from another, which broadcast: what is summed has all elements.
Jet distance(const Call& c, const DistBackward0& node) {
  const at::Tensor self = c.saved(node.self_), other = c.saved(node.other_);
  const int64_t dim = std::max(self.dim(), other.dim());
  const Series narrow = add(c.frame, aligned(c.series(0, self), dim), aligned(c.series(1, other), dim), -1);
  const Series difference = map_terms(narrow, [&](const at::Tensor& k) {
    c10::DimVector shape{k.size(0)};
    shape.append(narrow[0].sizes().begin(), narrow[0].sizes().end());
    return k.expand(shape);
  });
  const std::vector<int64_t> dims = dims_from_end(std::nullopt, dim);
  return norm_of(c.frame, difference, node.p.toDouble(), c.saved(node.result_), dims, false).jet(c.frame);
}

// All distances between rows of x and rows of y: [..., P, M] and [..., R, M] to [..., P, R].
Jet distances(const Call& c, const at::Tensor& x, const at::Tensor& y, const at::Tensor& result, double p) {
  const auto dim = static_cast<int64_t>(c.output_shape().size()) + 1;
  const Series a = c.series(0, x).map([](const at::Tensor& k) { return k.unsqueeze(-2); });
  const Series b = c.series(1, y).map([](const at::Tensor& k) { return k.unsqueeze(-3); });
  return norm_of(c.frame, add(c.frame, aligned(a, dim), aligned(b, dim), -1), p, result, {-1}, false).jet(c.frame);
}

// The distances between every two rows of x [N, M], of which the first is above the second.
Jet distances_of_pairs(const Call& c, const PdistBackward0& node) {
  const at::Tensor self = c.saved(node.self_);
  const int64_t count = self.size(0);
  const at::Tensor pairs = at::triu_indices(count, count, 1, self.options().dtype(at::kLong));
  const Series x(c.frame, c.inputs[0], self);
  const auto part = [&](int64_t i) {
    const at::Tensor rows = pairs.select(0, i);
    return x.map([&](const at::Tensor& k) { return k.index_select(-2, rows); });
  };
  return norm_of(c.frame, add(c.frame, part(0), part(1), -1), node.p, c.saved(node.result_), {-1}, false).jet(c.frame);
}

// v * g / |v|, with the norm of all of v but dimension `dim`.
Jet weight_norm(const Call& c, const WeightNormInterfaceBackward0& node) {
  const at::Tensor v = c.saved(node.v_), g = c.saved(node.g_);
  const int64_t kept = at::maybe_wrap_dim(node.dim, v.dim()) - v.dim();
  std::vector<int64_t> dims;
  for (int64_t dim = -v.dim(); dim < 0; ++dim) {
    if (dim != kept) {
      dims.push_back(dim);
    }
  }
  const Series direction = c.series(0, v);
  const Series norm = norm_of(c.frame, direction, 2, at::norm_except_dim(v, 2, node.dim), dims, /*keepdim=*/true);
  return multiply(c.frame, direction, divide(c.frame, c.series(1, g), norm)).jet(c.frame);
}

} // namespace

void add_norm_rules(RuleTable& table) {
  add_rule<LinalgVectorNormBackward0>(
      table, nonlinear_degree, [](const Call& c, const LinalgVectorNormBackward0& node) {
        const auto dims = node.dim.list.has_value() ? at::OptionalIntArrayRef(*node.dim.list) : std::nullopt;
        return norm(c, c.saved(node.self_), c.saved(node.result_), node.ord.toDouble(), dims, node.keepdim);
      });
  add_rule<NormBackward0>(table, nonlinear_degree, [](const Call& c, const NormBackward0& node) {
    return norm(c, c.saved(node.self_), c.saved(node.result_), node.p.toDouble(), std::nullopt, false);
  });
  add_rule<NormBackward1>(table, nonlinear_degree, [](const Call& c, const NormBackward1& node) {
    const double p = node.p.has_value() ? node.p->toDouble() : 2;
    return norm(c, c.saved(node.self_), c.saved(node.result_), p, at::IntArrayRef(node.dim), node.keepdim);
  });
  add_rule<DistBackward0>(table, nonlinear_degree, &distance);
  add_rule<CdistBackward0>(table, nonlinear_degree, [](const Call& c, const CdistBackward0& node) {
    return distances(c, c.saved(node.x1_), c.saved(node.x2_), c.saved(node.result_), node.p);
  });
  add_rule<EuclideanDistBackward0>(table, nonlinear_degree, [](const Call& c, const EuclideanDistBackward0& node) {
    return distances(c, c.saved(node.x1_), c.saved(node.x2_), c.saved(node.result_), 2);
  });
  add_rule<WeightNormInterfaceBackward0>(table, nonlinear_degree, &weight_norm);
  add_rule<PdistBackward0>(table, nonlinear_degree, &distances_of_pairs);
}

} // namespace highgrad::taylor
