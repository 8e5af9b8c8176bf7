#include "taylor/series.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>

namespace highgrad::taylor {
namespace {

// Accumulates products and sums; in place where nothing is recorded.
class Sum {
 public:
  void add(const at::Tensor& term, double alpha = 1) {
    if (!term.defined()) {
      return;
    }
    if (!total_.defined()) {
      total_ = alpha == 1 ? term : term * alpha;
      owned_ = alpha != 1;
    } else {
      total_ = at::add(total_, term, alpha);
      owned_ = true;
    }
  }

  void add_product(const at::Tensor& a, const at::Tensor& b) {
    if (!a.defined() || !b.defined()) {
      return;
    }
    if (!total_.defined()) {
      total_ = a * b;
    } else if (owned_ && !at::GradMode::is_enabled()) {
      total_.addcmul_(a, b);
    } else {
      total_ = at::addcmul(total_, a, b);
    }
    owned_ = true;
  }

  at::Tensor take() {
    return std::move(total_);
  }

 private:
  at::Tensor total_;
  bool owned_ = false;
};

at::Tensor times(at::Tensor tensor, double factor) {
  return !tensor.defined() || factor == 1 ? tensor : tensor * factor;
}

// a + alpha * b, either of which may be undefined for zero.
at::Tensor plus(const at::Tensor& a, const at::Tensor& b, double alpha = 1) {
  if (!a.defined()) {
    return times(b, alpha);
  }
  return b.defined() ? at::add(a, b, alpha) : a;
}

// Coefficient k of a * a, without the terms of a[0] if `inner`.
at::Tensor convolve_square(const Frame& frame, int64_t k, const Series& a, bool inner = false) {
  Sum twice;
  for (int64_t j = std::max<int64_t>(1, k - a.terms()); 2 * j < k; ++j) {
    twice.add_product(a[j], a[k - j]);
  }
  Sum cross;
  cross.add(times(twice.take(), 2));
  if (k % 2 == 0) {
    cross.add_product(a[k / 2], a[k / 2]);
  }
  at::Tensor total = cross.take();
  if (total.defined() && frame.collapsed && k == frame.order) {
    total = sum_directions(frame, total);
  }
  if (inner || !a[k].defined()) {
    return total;
  }
  Sum all;
  all.add(total);
  all.add_product(a[0] * 2, a[k]);
  return all.take();
}

// The coefficients j x_j of t x'(t).
Series derivative(const Series& x) {
  Series result{at::Tensor()};
  for (const auto k : c10::irange<int64_t>(1, x.terms() + 1)) {
    result.push(times(x[k], static_cast<double>(k)));
  }
  return result;
}

// Solves y' = w x' where w depends on y: slope(k, y, w) is the coefficient k of w, given those of y up to k.
template <typename Slope>
Series solve(const Frame& frame, const Series& x, at::Tensor y0, at::Tensor w0, Slope&& slope) {
  const Series dx = derivative(x);
  Series y(std::move(y0));
  Series w(std::move(w0));
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    y.push(times(convolve(frame, k, dx, w, 1, k), 1.0 / static_cast<double>(k)));
    if (k < frame.order) {
      w.push(slope(k, y));
    }
  }
  return y;
}

} // namespace

Series::Series(const Frame& frame, const Jet& jet, at::Tensor value, int64_t dim) : value_(std::move(value)) {
  // Broadcasting counts dimensions from the right, and every coefficient has one more on the left.
  dim = std::max(dim, value_.dim());
  for (const auto k : c10::irange<int64_t>(1, std::min(jet.terms, frame.order) + 1)) {
    coefficients_.push_back(align(coefficient(frame, jet, k), dim));
  }
}

const at::Tensor& Series::operator[](int64_t k) const {
  static const auto* zero = new at::Tensor();
  return k == 0 ? value_ : k > terms() ? *zero : coefficients_[k - 1];
}

at::Tensor convolve(const Frame& frame, int64_t k, const Series& a, const Series& b, int64_t first, int64_t last) {
  first = std::max(first, k - b.terms());
  last = std::min(last, a.terms());
  const bool collapses = frame.collapsed && k == frame.order;
  Sum sum;
  // Both factors are of lower order.
  for (int64_t j = std::max<int64_t>(first, 1); j <= std::min(last, k - 1); ++j) {
    sum.add_product(a[j], b[k - j]);
  }
  if (collapses) {
    at::Tensor total = sum.take();
    sum = Sum();
    sum.add(total.defined() ? sum_directions(frame, total) : total);
  }
  if (first <= 0) {
    sum.add_product(a[0], b[k]);
  }
  if (last >= k) {
    sum.add_product(a[k], b[0]);
  }
  return sum.take();
}

Series add(const Frame& frame, const Series& a, const Series& b, double alpha) {
  Series result(plus(a[0], b[0], alpha));
  for (const auto k : c10::irange<int64_t>(1, std::min(frame.order, std::max(a.terms(), b.terms())) + 1)) {
    result.push(plus(a[k], b[k], alpha));
  }
  return result;
}

Series scale(const Series& a, double factor) {
  return a.map([&](const at::Tensor& coefficient) { return coefficient * factor; });
}

Series shift(const Series& a, double constant) {
  return a.with_value(a[0] + constant);
}

Series multiply(const Frame& frame, const Series& a, const Series& b) {
  Series result(a[0] * b[0]);
  for (const auto k : c10::irange<int64_t>(1, std::min(frame.order, a.terms() + b.terms()) + 1)) {
    result.push(convolve(frame, k, a, b, 0, k));
  }
  return result;
}

Series square(const Frame& frame, const Series& a) {
  Series result(a[0] * a[0]);
  for (const auto k : c10::irange<int64_t>(1, std::min(frame.order, 2 * a.terms()) + 1)) {
    result.push(convolve_square(frame, k, a));
  }
  return result;
}

Series divide(const Frame& frame, const Series& a, const Series& b) {
  const at::Tensor inverse = b[0].reciprocal();
  Series result(a[0] * inverse);
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    const at::Tensor rest = plus(a[k], convolve(frame, k, b, result, 1, k), -1);
    result.push(rest.defined() ? rest * inverse : rest);
  }
  return result;
}

Series select(const Frame& frame, const at::Tensor& mask, const Series& a, const Series& b) {
  Series result(at::where(mask, a[0], b[0]));
  for (const auto k : c10::irange<int64_t>(1, std::min(frame.order, std::max(a.terms(), b.terms())) + 1)) {
    if (!a[k].defined() && !b[k].defined()) {
      result.push({});
      continue;
    }
    const at::Tensor zero = at::zeros_like(a[k].defined() ? a[k] : b[k]);
    result.push(at::where(mask, a[k].defined() ? a[k] : zero, b[k].defined() ? b[k] : zero));
  }
  return result;
}

Series integrate(const Frame& frame, const Series& x, const Series& slope, at::Tensor value) {
  const Series dx = derivative(x);
  Series y(std::move(value));
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    y.push(times(convolve(frame, k, dx, slope, 1, k), 1.0 / static_cast<double>(k)));
  }
  return y;
}

Series exp(const Frame& frame, const Series& x, at::Tensor y) {
  return solve(frame, x, y, y, [](int64_t k, const Series& y) { return y[k]; });
}

Series log(const Frame& frame, const Series& x, at::Tensor y) {
  return integrate(frame, x, divide(frame.lowered(), Series(at::ones_like(x[0])), x), std::move(y));
}

Series tanh(const Frame& frame, const Series& x, at::Tensor y) {
  const at::Tensor slope = 1 - y * y;
  return solve(frame, x, std::move(y), slope, [&](int64_t k, const Series& y) {
    return times(convolve_square(frame.lowered(), k, y), -1);
  });
}

Series tan(const Frame& frame, const Series& x, at::Tensor y) {
  const at::Tensor slope = 1 + y * y;
  return solve(frame, x, std::move(y), slope, [&](int64_t k, const Series& y) {
    return convolve_square(frame.lowered(), k, y);
  });
}

Series sigmoid(const Frame& frame, const Series& x, at::Tensor y) {
  const at::Tensor slope = y * (1 - y);
  return solve(frame, x, std::move(y), slope, [&](int64_t k, const Series& y) {
    return plus(y[k], convolve_square(frame.lowered(), k, y), -1);
  });
}

Series sqrt(const Frame& frame, const Series& x, at::Tensor y) {
  const at::Tensor half_slope = 0.5 / y;
  Series result(std::move(y));
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    const at::Tensor rest = plus(x[k], convolve_square(frame, k, result, /*inner=*/true), -1);
    result.push(rest.defined() ? rest * half_slope : rest);
  }
  return result;
}

Series power(const Frame& frame, const Series& x, double exponent, at::Tensor y) {
  // x y' = r y x', as y' = w x' with w = r y / x.
  const at::Tensor inverse = x[0].reciprocal();
  const at::Tensor slope = y * inverse * exponent;
  Series w(slope);
  const Series dx = derivative(x);
  Series result(std::move(y));
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    result.push(times(convolve(frame, k, dx, w, 1, k), 1.0 / static_cast<double>(k)));
    if (k < frame.order) {
      const at::Tensor rest = plus(times(result[k], exponent), convolve(frame.lowered(), k, x, w, 1, k), -1);
      w.push(rest.defined() ? rest * inverse : rest);
    }
  }
  return result;
}

Series natural_power(const Frame& frame, const Series& x, int64_t exponent) {
  if (exponent == 1) {
    return x;
  }
  const Series half = natural_power(frame, x, exponent / 2);
  const Series even = square(frame, half);
  return exponent % 2 == 0 ? even : multiply(frame, even, x);
}

Series compose(const Frame& frame, const Series& x, const std::vector<at::Tensor>& derivatives) {
  // Powers of h = x - x[0], which has no value: h^m starts at order m.
  Series h{at::Tensor()};
  for (const auto k : c10::irange<int64_t>(1, x.terms() + 1)) {
    h.push(x[k]);
  }
  std::vector<Sum> sums(frame.order);
  Series power = h;
  for (const auto m : c10::irange<int64_t>(1, frame.order + 1)) {
    for (const auto k : c10::irange<int64_t>(m, frame.order + 1)) {
      sums[k - 1].add_product(power[k], derivatives[m - 1]);
    }
    Series next{at::Tensor()};
    for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
      next.push(k > m ? convolve(frame, k, h, power, 1, k - 1) : at::Tensor());
    }
    power = std::move(next);
  }
  Series result{at::Tensor()};
  for (Sum& sum : sums) {
    result.push(sum.take());
  }
  return result;
}

SinePair sine_pair(const Frame& frame, const Series& x, at::Tensor sine, at::Tensor cosine, double sign) {
  const Series dx = derivative(x);
  SinePair pair{Series(std::move(sine)), Series(std::move(cosine))};
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    const double factor = 1.0 / static_cast<double>(k);
    at::Tensor s = times(convolve(frame, k, dx, pair.cosine, 1, k), factor);
    at::Tensor c = times(convolve(frame, k, dx, pair.sine, 1, k), sign * factor);
    pair.sine.push(std::move(s));
    pair.cosine.push(std::move(c));
  }
  return pair;
}

} // namespace highgrad::taylor
