// Rules of sums and of nonlinear operations along dimensions.

#include <ATen/TensorOperators.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "taylor/rule.h"
#include "taylor/softmax.h"

namespace highgrad::taylor {

Normalized normalize(const Frame& frame, const Series& x, const at::Tensor& y, at::IntArrayRef dims) {
  Normalized result{Series(y), Series(y)};
  Series dx{at::Tensor()}, dm{at::Tensor()};
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    const auto order = static_cast<double>(k);
    dx.push(x[k].defined() ? x[k] * order : x[k]);
    const at::Tensor product = convolve(frame, k, dx, result.softmax, 1, k);
    if (!product.defined()) {
      dm.push({});
      result.logsumexp.push({});
      result.softmax.push({});
      continue;
    }
    dm.push(dims.empty() ? product : product.sum(dims, /*keepdim=*/true));
    result.logsumexp.push(dm[k] / order);
    result.softmax.push((product - convolve(frame, k, dm, result.softmax, 1, k)) / order);
  }
  return result;
}

namespace {

using namespace torch::autograd::generated;

at::Tensor sum_over(const at::Tensor& tensor, at::IntArrayRef dims, bool keepdim) {
  return dims.empty() ? tensor : tensor.sum(dims, keepdim);
}

Jet sum(const Jet& jet, at::OptionalIntArrayRef dims, bool keepdim) {
  return {sum_over(jet.rows, dims_from_end(dims, jet.rows.dim() - 1), keepdim), jet.terms};
}

Jet mean(const Jet& jet, at::OptionalIntArrayRef dims, bool keepdim) {
  const Jet total = sum(jet, dims, keepdim);
  const double numel = static_cast<double>(jet.rows.numel()) / static_cast<double>(total.rows.numel());
  return {total.rows / numel, total.terms};
}

at::OptionalIntArrayRef dims_of(const c10::OptionalArray<int64_t>& dims) {
  return dims.list.has_value() ? at::OptionalIntArrayRef(*dims.list) : std::nullopt;
}

int64_t count(at::IntArrayRef shape, at::IntArrayRef dims) {
  int64_t numel = 1;
  for (const int64_t dim : dims) {
    numel *= shape[static_cast<int64_t>(shape.size()) + dim];
  }
  return numel;
}

void add_sums(RuleTable& table) {
  add_rule<SumBackward0>(table, linear_degree, [](const Call& c, const SumBackward0& /*node*/) {
    return sum(c.inputs[0], std::nullopt, false);
  });
  add_rule<SumBackward1>(table, linear_degree, [](const Call& c, const SumBackward1& node) {
    return sum(c.inputs[0], dims_of(node.dim), node.keepdim);
  });
  add_rule<MeanBackward0>(table, linear_degree, [](const Call& c, const MeanBackward0& /*node*/) {
    return mean(c.inputs[0], std::nullopt, false);
  });
  add_rule<MeanBackward1>(table, linear_degree, [](const Call& c, const MeanBackward1& node) {
    return mean(c.inputs[0], dims_of(node.dim), node.keepdim);
  });
}

// The product along the last dimension but `from_end` - 1, which is kept with size 1.
Series product_along(const Frame& frame, Series x, int64_t dim) {
  const auto part = [&](int64_t first, int64_t length) {
    return x.map([&](const at::Tensor& k) { return k.narrow(dim, first, length); });
  };
  std::optional<Series> rest;
  for (int64_t size = x[0].size(dim); size > 1; size /= 2) {
    if (size % 2 == 1) {
      const Series last = part(size - 1, 1);
      rest = rest.has_value() ? multiply(frame, *rest, last) : last;
    }
    x = multiply(frame, part(0, size / 2), part(size / 2, size / 2));
  }
  return rest.has_value() ? multiply(frame, *rest, x) : x;
}

template <typename T>
void add_softmax(RuleTable& table) {
  add_rule<T>(table, nonlinear_degree, [](const Call& c, const T& node) {
    const at::Tensor y = c.saved(node.result_);
    return normalize(c.frame, c.series(0, y), y, dims_from_end(node.dim, y.dim())).softmax.jet(c.frame);
  });
}

void add_normalizations(RuleTable& table) {
  add_softmax<SoftmaxBackward0>(table);
  add_softmax<SafeSoftmaxBackward0>(table);
  add_rule<LogSoftmaxBackward0>(table, nonlinear_degree, [](const Call& c, const LogSoftmaxBackward0& node) {
    const at::Tensor y = c.saved(node.result_).exp();
    const std::vector<int64_t> dims = dims_from_end(node.dim, y.dim());
    return add(c.frame, c.inputs[0], scaled(normalize(c.frame, c.series(0, y), y, dims).logsumexp.jet(c.frame), -1));
  });
  add_rule<LogsumexpBackward0>(table, nonlinear_degree, [](const Call& c, const LogsumexpBackward0& node) {
    const at::Tensor self = c.saved(node.self_);
    const std::vector<int64_t> dims = dims_from_end(at::IntArrayRef(node.dim), self.dim());
    // Of nothing but -inf: torch's derivatives are zero there.
    at::Tensor result = c.saved(node.result_);
    result = result.masked_fill(result.eq(-std::numeric_limits<double>::infinity()), 0);
    std::vector<int64_t> kept = self.sizes().vec();
    for (const int64_t dim : dims) {
      kept[self.dim() + dim] = 1;
    }
    const at::Tensor y = (self - result.reshape(kept)).exp();
    Jet jet = normalize(c.frame, c.series(0, self), y, dims).logsumexp.jet(c.frame);
    std::vector<int64_t> shape = c.output_shape();
    shape.insert(shape.begin(), jet.rows.size(0));
    return Jet{jet.rows.reshape(shape), jet.terms};
  });
}

// The degree of a product of as many factors as `dim` has.
int64_t factors_degree(int64_t factors, c10::ArrayRef<int64_t> inputs) {
  return inputs[0] >= kUnbounded ? kUnbounded : std::min(inputs[0] * factors, kUnbounded);
}

// Mean of squared deviations over `dims`, times n / (n - correction).
Series variance(
    const Call& c,
    const at::Tensor& self,
    at::OptionalIntArrayRef dim,
    const std::optional<at::Scalar>& correction,
    bool keepdim) {
  const std::vector<int64_t> dims = dims_from_end(dim, self.dim());
  const auto numel = static_cast<double>(count(self.sizes(), dims));
  const double divisor = numel - (correction.has_value() ? correction->toDouble() : 1);
  const Series x = c.series(0, self);
  const Series mean = x.map([&](const at::Tensor& k) { return sum_over(k, dims, true) / numel; });
  const Series squares = square(c.frame, add(c.frame, x, mean, -1));
  return squares.map([&](const at::Tensor& k) { return sum_over(k, dims, keepdim) / divisor; });
}

// The root of a variance. Of equal elements it has a kink, where torch's derivatives are zero.
Jet deviation_of(const Call& c, const Series& variance, const at::Tensor& value) {
  const at::Tensor divisor = value.masked_fill(value.eq(0), std::numeric_limits<double>::infinity());
  return sqrt(c.frame, variance, divisor).jet(c.frame);
}

void add_statistics(RuleTable& table) {
  add_rule<ProdBackward0>(table, nonlinear_degree, [](const Call& c, const ProdBackward0& node) {
    const at::Tensor self = c.saved(node.self_).reshape(-1);
    const at::Tensor& rows = c.inputs[0].rows;
    const Series flat(c.frame, {rows.reshape({rows.size(0), self.numel()}), c.inputs[0].terms}, self);
    return product_along(c.frame, flat, -1).map([](const at::Tensor& k) { return k.squeeze(-1); }).jet(c.frame);
  });
  add_rule<ProdBackward1>(table, nonlinear_degree, [](const Call& c, const ProdBackward1& node) {
    const at::Tensor self = c.saved(node.self_);
    if (self.dim() == 0) {
      return c.inputs[0];
    }
    const int64_t dim = dims_from_end(node.dim, self.dim())[0];
    const Series product = product_along(c.frame, Series(c.frame, c.inputs[0], self), dim);
    return product.map([&](const at::Tensor& k) { return node.keepdim ? k : k.squeeze(dim); }).jet(c.frame);
  });
  table[typeid(ProdBackward0)].degree = [](torch::autograd::Node& node, c10::ArrayRef<int64_t> inputs) {
    return factors_degree(static_cast<ProdBackward0&>(node).self_.unpack(node.getptr()).numel(), inputs);
  };
  table[typeid(ProdBackward1)].degree = [](torch::autograd::Node& node, c10::ArrayRef<int64_t> inputs) {
    auto& prod = static_cast<ProdBackward1&>(node);
    const at::Tensor self = prod.self_.unpack(node.getptr());
    return factors_degree(self.dim() == 0 ? 1 : self.size(prod.dim), inputs);
  };
  add_rule<VarBackward0>(table, nonlinear_degree, [](const Call& c, const VarBackward0& node) {
    const auto dims = dims_of(node.dim);
    return variance(c, c.saved(node.self_), dims, node.correction, node.keepdim).jet(c.frame);
  });
  table[typeid(VarBackward0)].degree = [](torch::autograd::Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
    return factors_degree(2, inputs);
  };
  add_rule_of_many<VarMeanBackward0>(table, nonlinear_degree, [](const Call& c, const VarMeanBackward0& node) {
    const auto dims = dims_of(node.dim);
    const Jet squares = variance(c, c.saved(node.self_), dims, node.correction, node.keepdim).jet(c.frame);
    return std::vector<Jet>{squares, mean(c.inputs[0], dims, node.keepdim)};
  });
  add_rule_of_many<StdMeanBackward0>(table, nonlinear_degree, [](const Call& c, const StdMeanBackward0& node) {
    const auto dims = dims_of(node.dim);
    const Series square = variance(c, c.saved(node.self_), dims, node.correction, node.keepdim);
    const Jet deviation = deviation_of(c, square, c.saved(node.result0_));
    return std::vector<Jet>{deviation, mean(c.inputs[0], dims, node.keepdim)};
  });
  add_rule<StdBackward0>(table, nonlinear_degree, [](const Call& c, const StdBackward0& node) {
    const auto dims = dims_of(node.dim);
    const Series square = variance(c, c.saved(node.self_), dims, node.correction, node.keepdim);
    return deviation_of(c, square, c.saved(node.result_));
  });
}

// The running results of an associative function along a dimension counted from the end, in log2(size) steps (Hillis,
// Steele, "Data parallel algorithms", 1986).
template <typename Function>
Series scan(Series x, int64_t dim, const Function& function) {
  const int64_t size = x[0].size(dim);
  for (int64_t step = 1; step < size; step *= 2) {
    const auto part = [&](int64_t first, int64_t length) {
      return x.map([&](const at::Tensor& k) { return k.narrow(dim, first, length); });
    };
    const Series ahead = function(part(step, size - step), part(0, size - step));
    const Series before = part(0, step);
    Series joined(at::cat({before[0], ahead[0]}, dim));
    for (const auto k : c10::irange<int64_t>(1, std::max(before.terms(), ahead.terms()) + 1)) {
      if (!before[k].defined() && !ahead[k].defined()) {
        joined.push({});
        continue;
      }
      const auto whole = [&](const Series& piece, const Series& other) {
        if (piece[k].defined()) {
          return piece[k];
        }
        c10::DimVector shape(other[k].sizes());
        shape[other[k].dim() + dim] = piece[0].size(dim);
        return at::zeros(shape, other[k].options());
      };
      joined.push(at::cat({whole(before, ahead), whole(ahead, before)}, dim));
    }
    x = std::move(joined);
  }
  return x;
}

void add_scans(RuleTable& table) {
  const auto degree = [](torch::autograd::Node& node, c10::ArrayRef<int64_t> inputs) {
    const std::vector<int64_t> shape = shape_of(node, 0);
    const auto rank = static_cast<int64_t>(shape.size());
    const int64_t dim = static_cast<CumprodBackward0&>(node).dim;
    return factors_degree(rank == 0 ? 1 : shape[at::maybe_wrap_dim(dim, rank)], inputs);
  };
  add_rule<CumprodBackward0>(table, degree, [](const Call& c, const CumprodBackward0& node) {
    const at::Tensor self = c.saved(node.self_);
    if (self.dim() == 0) {
      return c.inputs[0];
    }
    const auto product = [&](const Series& a, const Series& b) { return multiply(c.frame, a, b); };
    return scan(c.series(0, self), dims_from_end(node.dim, self.dim())[0], product).jet(c.frame);
  });
  add_rule<LogcumsumexpBackward0>(table, nonlinear_degree, [](const Call& c, const LogcumsumexpBackward0& node) {
    const at::Tensor self = c.saved(node.self_);
    if (self.dim() == 0) {
      return c.inputs[0];
    }
    const auto sum = [&](const Series& a, const Series& b) { return log_add_exp(c.frame, a, b, 1); };
    return scan(c.series(0, self), dims_from_end(node.dim, self.dim())[0], sum).jet(c.frame);
  });
}

} // namespace

void add_reduction_rules(RuleTable& table) {
  add_sums(table);
  add_scans(table);
  add_normalizations(table);
  add_statistics(table);
}

} // namespace highgrad::taylor
