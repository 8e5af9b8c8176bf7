#include "taylor/series.h"

#include <ATen/ExpandUtils.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>

#include "taylor/local_series.h"

namespace highgrad::taylor {
namespace {

at::Tensor times(at::Tensor tensor, double factor) {
  return !tensor.defined() || factor == 1 ? tensor : tensor * factor;
}

// The same for a tensor that nobody else holds: in place where nothing is recorded.
at::Tensor own_times(at::Tensor tensor, double factor) {
  if (!tensor.defined() || factor == 1) {
    return tensor;
  }
  return at::GradMode::is_enabled() ? tensor * factor : tensor.mul_(factor);
}

// Accumulates products and sums; in place where nothing is recorded.
class Sum {
 public:
  Sum() = default;
  // Of products alone, into memory of the caller's, if that is defined.
  explicit Sum(at::Tensor out) : out_(std::move(out)) {}

  void add(const at::Tensor& term) {
    if (!term.defined()) {
      return;
    }
    owned_ = total_.defined();
    total_ = total_.defined() ? total_ + term : term;
  }

  void add_product(const at::Tensor& a, const at::Tensor& b, double factor = 1) {
    if (!a.defined() || !b.defined()) {
      return;
    }
    if (!total_.defined()) {
      total_ = own_times(out_.defined() ? at::mul_out(out_, a, b) : a * b, factor);
    } else if (owned_ && !at::GradMode::is_enabled() && holds(at::infer_size_dimvector(a.sizes(), b.sizes()))) {
      total_.addcmul_(a, b, factor);
    } else {
      total_ = at::addcmul(total_, a, b, factor);
    }
    owned_ = true;
  }

  // Of rows of orders j and l.
  void add_product(
      const Frame& frame,
      int64_t j,
      const at::Tensor& a,
      int64_t l,
      const at::Tensor& b,
      double factor = 1) {
    if (!a.defined() || !b.defined()) {
      return;
    }
    if (!frame.is_multivariate()) {
      add_product(frame.reaching(j + l, a), frame.reaching(j + l, b), factor);
      return;
    }
    const at::Tensor product = multiply_rows(frame, j, a, l, b);
    if (!total_.defined()) {
      total_ = own_times(product, factor);
    } else {
      const bool in_place = !at::GradMode::is_enabled() && holds(product.sizes());
      total_ = in_place ? total_.add_(product, factor) : at::add(total_, product, factor);
    }
    owned_ = true;
  }

  at::Tensor take() {
    return std::move(total_);
  }

 private:
  // Whether something of this shape broadcasts to the total: operands that broadcast may be narrower for some orders
  // than for others.
  bool holds(at::IntArrayRef shape) const {
    return shape == total_.sizes() || at::is_expandable_to(shape, total_.sizes());
  }

  at::Tensor out_;
  at::Tensor total_;
  bool owned_ = false;
};

// a + alpha * b, either of which may be undefined for zero.
at::Tensor plus(const at::Tensor& a, const at::Tensor& b, double alpha = 1) {
  if (!a.defined()) {
    return times(b, alpha);
  }
  return b.defined() ? at::add(a, b, alpha) : a;
}

// Coefficient k of a * a, without the terms of a[0] if `inner`.
at::Tensor convolve_square(const Frame& frame, int64_t k, const Series& a, bool inner = false) {
  Sum sum;
  for (int64_t j = std::max<int64_t>(1, k - a.terms()); 2 * j < k; ++j) {
    sum.add_product(frame, j, a[j], k - j, a[k - j]);
  }
  at::Tensor twice = own_times(sum.take(), 2);
  Sum cross;
  if (k % 2 == 0) {
    cross.add_product(frame, k / 2, a[k / 2], k / 2, a[k / 2]);
  }
  cross.add(twice);
  at::Tensor total = cross.take();
  if (total.defined() && frame.collapsed && k == frame.order) {
    total = sum_directions(frame, total);
  }
  if (inner || !a[k].defined()) {
    return total;
  }
  Sum all;
  all.add_product(a[0] * 2, a[k]);
  all.add(total);
  return all.take();
}

// The highest coefficient of a contracted frame, as the sum of a tensor and of products.
class Highest {
 public:
  // factor * weight * the highest coefficient of x.
  void add(const Series& x, double factor, const at::Tensor& weight = {}) {
    for (Product product : x.products()) {
      product.factor *= factor;
      if (weight.defined()) {
        product.weight = product.weight.defined() ? product.weight * weight : weight;
      }
      products_.push_back(std::move(product));
    }
    if (x.rest().defined()) {
      rest_ = plus(rest_, weight.defined() ? x.rest() * weight : x.rest(), factor);
    }
  }

  void add_product(const at::Tensor& a, const at::Tensor& b, int64_t order_a, double factor) {
    if (a.defined() && b.defined()) {
      products_.push_back({a, b, order_a, factor, {}});
    }
  }

  void push_onto(const Frame& frame, Series& y) {
    y.push_contracted(frame, std::move(rest_), std::move(products_));
  }

 private:
  at::Tensor rest_;
  std::vector<Product> products_;
};

// y_k = (a * b)_k.
void push_product(const Frame& frame, Series& y, int64_t k, const Series& a, const Series& b) {
  if (!frame.contracts(k)) {
    y.push(convolve(frame, k, a, b, 0, k));
    return;
  }
  Highest sum;
  for (const auto j : c10::irange<int64_t>(1, k)) {
    sum.add_product(a[j], b[k - j], j, 1);
  }
  if (b.terms() == k) {
    sum.add(b, 1, a[0]);
  }
  if (a.terms() == k) {
    sum.add(a, 1, b[0]);
  }
  sum.push_onto(frame, y);
}

// Coefficient k of the integral of w x': the sum of (j / k) x_j w_(k-j). Written into `out` where that serves.
at::Tensor integral(const Frame& frame, int64_t k, const Series& x, const Series& w, const at::Tensor& out = {}) {
  const bool collapses = frame.collapsed && k == frame.order;
  Sum sum(collapses ? at::Tensor() : out);
  if (!collapses) {
    sum.add_product(x[k], w[0]);
  }
  for (int64_t j = std::min(k - 1, x.terms()); j > 0; --j) {
    sum.add_product(frame, j, x[j], k - j, w[k - j], static_cast<double>(j) / static_cast<double>(k));
  }
  if (collapses) {
    const at::Tensor total = sum.take();
    sum = Sum();
    sum.add(total.defined() ? sum_directions(frame, total) : total);
    sum.add_product(x[k], w[0]);
  }
  return sum.take();
}

// y_k = alpha * a_k + beta * b_k.
void push_sum(const Frame& frame, Series& y, int64_t k, const Series& a, double alpha, const Series& b, double beta) {
  if (!frame.contracts(k)) {
    y.push(plus(times(a[k], alpha), b[k], beta));
    return;
  }
  Highest sum;
  if (a.terms() == k) {
    sum.add(a, alpha);
  }
  if (b.terms() == k) {
    sum.add(b, beta);
  }
  sum.push_onto(frame, y);
}

// The collapsed second order, y_2 = w x_2 + w_1 x_1 / 2, with w_1 = slope_by_x x_1 taken out of the sum over
// directions.
Series solve_second_order(
    const Frame& frame,
    const Series& x,
    at::Tensor y0,
    const at::Tensor& w0,
    const at::Tensor& slope_by_x) {
  const Series slope(w0);
  Series y(std::move(y0));
  y.allocate(frame, x[1].sizes());
  y.push(convolve(frame, 1, x, slope, 1, 1, y.slot(frame, 1)));
  const at::Tensor curved = sum_directions(frame, x[1] * x[1]) * (slope_by_x * 0.5);
  y.push(x[2].defined() ? at::addcmul(curved, x[2], w0) : curved);
  return y;
}

// The value of w that y0 gives.
at::Tensor slope_of_value(const Slope& slope, const at::Tensor& y0) {
  if (slope.square == 0) {
    const at::Tensor product = slope.linear == 1 ? y0 : y0 * slope.linear;
    return slope.constant == 0 ? product : product + slope.constant;
  }
  if (slope.linear == 0) {
    return slope.square == -1 ? slope.constant - y0 * y0 : slope.constant + y0 * y0 * slope.square;
  }
  const at::Tensor product = y0 * (slope.linear + y0 * slope.square);
  return slope.constant == 0 ? product : product + slope.constant;
}

// Solves y' = w x' with w as `rule` has it; an undefined w0 is the one that y0 gives.
Series solve(const Frame& frame, const Series& x, at::Tensor y0, at::Tensor w0, const Slope& rule) {
  w0 = w0.defined() ? w0 : slope_of_value(rule, y0);
  const bool has_companion = rule.companion != 0;
  if (frame.collapsed && frame.order == 2 && x[1].defined()) {
    const at::Tensor slope_by_x = has_companion ? y0 * rule.companion : (y0 * (2 * rule.square) + rule.linear) * w0;
    return solve_second_order(frame, x, std::move(y0), w0, slope_by_x);
  }
  Series y(y0);
  if (x[1].defined()) {
    y.allocate(frame, x[1].sizes());
  }
  Series w(std::move(w0));
  at::Tensor slope_by_y;
  if (frame.order > 1 && rule.square != 0) {
    slope_by_y = y0 * (2 * rule.square);
    slope_by_y = rule.linear != 0 ? slope_by_y + rule.linear : slope_by_y;
  }
  const Frame lowered = frame.lowered();
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    push_integral(frame, y, k, x, w);
    if (k == frame.order) {
      break;
    }
    if (has_companion) {
      w.push(own_times(integral(lowered, k, x, y), rule.companion));
      continue;
    }
    if (rule.square == 0) {
      w.push(times(y[k], rule.linear));
      continue;
    }
    Sum sum;
    sum.add_product(slope_by_y, y[k]);
    for (int64_t j = 1; 2 * j <= k; ++j) {
      sum.add_product(lowered, j, y[j], k - j, y[k - j], 2 * j == k ? rule.square : 2 * rule.square);
    }
    w.push(sum.take());
  }
  return y;
}

} // namespace

void push_integral(const Frame& frame, Series& y, int64_t k, const Series& x, const Series& w) {
  if (!frame.contracts(k)) {
    y.push(integral(frame, k, x, w, y.slot(frame, k)));
    return;
  }
  Highest sum;
  for (const auto j : c10::irange<int64_t>(1, k)) {
    sum.add_product(x[j], w[k - j], j, static_cast<double>(j) / static_cast<double>(k));
  }
  if (x.terms() == k) {
    sum.add(x, 1, w[0]);
  }
  sum.push_onto(frame, y);
}

at::Tensor convolve(
    const Frame& frame,
    int64_t k,
    const Series& a,
    const Series& b,
    int64_t first,
    int64_t last,
    const at::Tensor& out) {
  first = std::max(first, k - b.terms());
  last = std::min(last, a.terms());
  const bool collapses = frame.collapsed && k == frame.order;
  Sum sum(collapses ? at::Tensor() : out);
  // Both factors are of lower order.
  for (int64_t j = std::max<int64_t>(first, 1); j <= std::min(last, k - 1); ++j) {
    sum.add_product(frame, j, a[j], k - j, b[k - j]);
  }
  if (collapses) {
    const at::Tensor total = sum.take();
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
    push_sum(frame, result, k, a, 1, b, alpha);
  }
  return result;
}

Series scale(const Frame& frame, const Series& a, double factor) {
  const at::Tensor rows = a.rows(frame);
  if (rows.defined()) {
    return Series(frame, {rows * factor, std::min(a.terms(), frame.order)}, a[0] * factor);
  }
  Series result(a[0] * factor);
  for (const auto k : c10::irange<int64_t>(1, a.terms() + 1)) {
    push_sum(frame, result, k, a, factor, Series(), 0);
  }
  return result;
}

Series shift(const Series& a, double constant) {
  return a.with_value(a[0] + constant);
}

Series multiply(const Frame& frame, const Series& a, const Series& b) {
  Series result(a[0] * b[0]);
  for (const auto k : c10::irange<int64_t>(1, std::min(frame.order, a.terms() + b.terms()) + 1)) {
    push_product(frame, result, k, a, b);
  }
  return result;
}

Series square(const Frame& frame, const Series& a) {
  Series result(a[0] * a[0]);
  for (const auto k : c10::irange<int64_t>(1, std::min(frame.order, 2 * a.terms()) + 1)) {
    if (frame.contracts(k)) {
      push_product(frame, result, k, a, a);
    } else {
      result.push(convolve_square(frame, k, a));
    }
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
  Series y(std::move(value));
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    push_integral(frame, y, k, x, slope);
  }
  return y;
}

Series exp(const Frame& frame, const Series& x, at::Tensor y) {
  return solve(frame, x, std::move(y), {}, {.linear = 1});
}

Series log(const Frame& frame, const Series& x, at::Tensor y) {
  return integrate(frame, x, divide(frame.lowered(), Series(at::ones_like(x[0])), x), std::move(y));
}

Series tanh(const Frame& frame, const Series& x, at::Tensor y) {
  return solve(frame, x, std::move(y), {}, {.constant = 1, .square = -1});
}

Series tan(const Frame& frame, const Series& x, at::Tensor y) {
  return solve(frame, x, std::move(y), {}, {.constant = 1, .square = 1});
}

Series sigmoid(const Frame& frame, const Series& x, at::Tensor y) {
  return solve(frame, x, std::move(y), {}, {.linear = 1, .square = -1});
}

Series sine(const Frame& frame, const Series& x, at::Tensor y, const at::Tensor& slope, double sign) {
  return solve(frame, x, std::move(y), slope, {.companion = sign});
}

Series log_add_exp(const Frame& frame, const Series& a, const Series& b, double rate) {
  // b + softplus(a - b)
  const Series difference = add(frame, a, b, -1);
  const Series scaled = scale(frame.lowered(), difference, rate);
  const Series slope = sigmoid(frame.lowered(), scaled, at::sigmoid(scaled[0]));
  const at::Tensor value = at::softplus(difference[0], rate, /*threshold=*/40);
  return add(frame, b, integrate(frame, difference, slope, value));
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
  Series result(std::move(y));
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    push_integral(frame, result, k, x, w);
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

} // namespace highgrad::taylor
