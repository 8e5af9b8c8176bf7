// Rules of sums and of nonlinear operations along dimensions.

#include <ATen/TensorOperators.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <numeric>
#include <optional>
#include <utility>

#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;

// Dimensions counted from the end, so that they name the same ones of a value and of its coefficients. None of them,
// or an absent list, means all, as torch has it.
std::vector<int64_t> dims_from_end(at::OptionalIntArrayRef dims, int64_t rank) {
  std::vector<int64_t> result;
  if (!dims.has_value() || dims->empty()) {
    result.resize(rank);
    std::iota(result.begin(), result.end(), -rank);
    return result;
  }
  if (rank > 0) {
    for (const int64_t dim : *dims) {
      result.push_back(at::maybe_wrap_dim(dim, rank) - rank);
    }
  }
  return result;
}

at::Tensor sum_over(const at::Tensor& tensor, at::IntArrayRef dims, bool keepdim) {
  return dims.empty() ? tensor : tensor.sum(dims, keepdim);
}

Jet sum(const Jet& jet, at::OptionalIntArrayRef dims, bool keepdim) {
  return {sum_over(jet.rows, dims_from_end(dims, jet.rows.dim() - 1), keepdim), jet.terms};
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
    return sum(
        c.inputs[0], node.dim.list.has_value() ? at::OptionalIntArrayRef(*node.dim.list) : std::nullopt, node.keepdim);
  });
  const auto divided = [](Jet jet, const at::Tensor& before) {
    const int64_t after = jet.rows.numel() / jet.rows.size(0);
    const int64_t numel = before.numel() / before.size(0);
    return Jet{jet.rows / (static_cast<double>(numel) / static_cast<double>(after)), jet.terms};
  };
  add_rule<MeanBackward0>(table, linear_degree, [divided](const Call& c, const MeanBackward0& /*node*/) {
    return divided(sum(c.inputs[0], std::nullopt, false), c.inputs[0].rows);
  });
  add_rule<MeanBackward1>(table, linear_degree, [divided](const Call& c, const MeanBackward1& node) {
    const auto dims = node.dim.list.has_value() ? at::OptionalIntArrayRef(*node.dim.list) : std::nullopt;
    return divided(sum(c.inputs[0], dims, node.keepdim), c.inputs[0].rows);
  });
}

// y = softmax(x) and m = logsumexp(x), by m' = sum(y x') and y' = y (x' - m').
struct Normalized {
  Series softmax;
  Series logsumexp; // with keepdim
};

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
    dm.push(sum_over(product, dims, true));
    result.logsumexp.push(dm[k] / order);
    result.softmax.push((product - convolve(frame, k, dm, result.softmax, 1, k)) / order);
  }
  return result;
}

// sqrt(sum(x^2)), and zeros where that is zero, as torch's derivatives have it.
Jet euclidean_norm(
    const Call& c,
    const at::Tensor& self,
    const at::Tensor& result,
    at::OptionalIntArrayRef dim,
    bool keepdim) {
  const std::vector<int64_t> dims = dims_from_end(dim, self.dim());
  const Series squares = square(c.frame, c.series(0, self));
  const Series sums = squares.map([&](const at::Tensor& coefficient) { return sum_over(coefficient, dims, keepdim); });
  const at::Tensor is_zero = result == 0;
  const Series norm = sqrt(c.frame, sums, at::where(is_zero, at::ones_like(result), result));
  return norm.map([&](const at::Tensor& k) { return at::where(is_zero, at::zeros_like(k), k); }).jet(c.frame);
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

Jet layer_norm(const Call& c, const NativeLayerNormBackward0& node) {
  const Frame& frame = c.frame;
  const at::Tensor input = c.saved(node.input_);
  std::vector<int64_t> dims(node.normalized_shape.size());
  std::iota(dims.begin(), dims.end(), -static_cast<int64_t>(dims.size()));
  const auto numel = static_cast<double>(count(input.sizes(), dims));
  const auto mean = [&](const at::Tensor& tensor) { return tensor.sum(dims, true) / numel; };
  const Series x = c.series(0, input);
  const Series centered = add(frame, x, x.map(mean), -1);
  const Series variance = square(frame, centered).map(mean);
  // The Node did not save epsilon, only the reciprocal deviation, which has no graph of its own.
  const at::Tensor shifted = c.saved(node.result2_).detach().pow(-2);
  const at::Tensor epsilon = (shifted - variance[0]).detach();
  const Series regular = variance.with_value(variance[0] + epsilon);
  Series result = multiply(frame, centered, power(frame, regular, -0.5, regular[0].rsqrt()));
  const at::Tensor weight = c.saved(node.weight_);
  if (weight.defined()) {
    result = multiply(frame, result, c.series(1, weight));
  }
  return add(frame, result.jet(frame), c.inputs[2]);
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
    at::Tensor result = c.saved(node.result_);
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
  add_rule_of_many<NativeLayerNormBackward0>(
      table, nonlinear_degree, [](const Call& c, const NativeLayerNormBackward0& node) {
        return std::vector<Jet>{layer_norm(c, node), {}, {}};
      });
  add_rule<LinalgVectorNormBackward0>(
      table, nonlinear_degree, [](const Call& c, const LinalgVectorNormBackward0& node) {
        if (node.ord.toDouble() != 2) {
          throw Unsupported("a norm of another order than 2");
        }
        const auto dims = node.dim.list.has_value() ? at::OptionalIntArrayRef(*node.dim.list) : std::nullopt;
        return euclidean_norm(c, c.saved(node.self_), c.saved(node.result_), dims, node.keepdim);
      });
  add_rule<NormBackward0>(table, nonlinear_degree, [](const Call& c, const NormBackward0& node) {
    if (node.p.toDouble() != 2) {
      throw Unsupported("a norm of another order than 2");
    }
    return euclidean_norm(c, c.saved(node.self_), c.saved(node.result_), std::nullopt, false);
  });
  add_rule<NormBackward1>(table, nonlinear_degree, [](const Call& c, const NormBackward1& node) {
    if (node.p.has_value() && node.p->toDouble() != 2) {
      throw Unsupported("a norm of another order than 2");
    }
    return euclidean_norm(c, c.saved(node.self_), c.saved(node.result_), at::IntArrayRef(node.dim), node.keepdim);
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
    const auto dims = node.dim.list.has_value() ? at::OptionalIntArrayRef(*node.dim.list) : std::nullopt;
    return variance(c, c.saved(node.self_), dims, node.correction, node.keepdim).jet(c.frame);
  });
  table[typeid(VarBackward0)].degree = [](torch::autograd::Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
    return factors_degree(2, inputs);
  };
  add_rule<StdBackward0>(table, nonlinear_degree, [](const Call& c, const StdBackward0& node) {
    const auto dims = node.dim.list.has_value() ? at::OptionalIntArrayRef(*node.dim.list) : std::nullopt;
    const Series square = variance(c, c.saved(node.self_), dims, node.correction, node.keepdim);
    return sqrt(c.frame, square, c.saved(node.result_)).jet(c.frame);
  });
}

} // namespace

void add_reduction_rules(RuleTable& table) {
  add_sums(table);
  add_normalizations(table);
  add_statistics(table);
}

} // namespace highgrad::taylor
