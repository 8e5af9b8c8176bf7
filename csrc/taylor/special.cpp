// Rules of special functions, element by element: each by a differential equation of its own, or by derivatives that
// torch or a convergent series gives.

#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/polygamma.h>
#include <ATen/ops/special_erfcx.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <array>
#include <cmath>
#include <utility>

#include "taylor/pointwise.h"
#include "taylor/sum.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;
using torch::autograd::Node;

// Solves y' = w x' together with w' = v x', where order k of v follows from lower ones of x, y and w.
template <typename Second>
Series solve_pair(const Frame& frame, const Series& x, at::Tensor y0, at::Tensor w0, const Second& second) {
  const Frame lowered = frame.lowered();
  Series dx{at::Tensor()}, y(std::move(y0)), w(std::move(w0)), v{at::Tensor()};
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    const auto order = static_cast<double>(k);
    dx.push(x[k].defined() ? x[k] * order : x[k]);
    const at::Tensor sum = convolve(frame, k, dx, w, 1, k);
    y.push(sum.defined() ? sum / order : sum);
    if (k < frame.order) {
      if (k == 1) {
        v = Series(second(lowered, 0, y, w));
      }
      const at::Tensor slope = convolve(lowered, k, dx, v, 1, k);
      w.push(slope.defined() ? slope / order : slope);
      v.push(second(lowered, k, y, w));
    }
  }
  return y;
}

at::Tensor times(const at::Tensor& a, double factor) {
  return a.defined() ? a * factor : a;
}

// (a b)_k, also of order 0.
at::Tensor product(const Frame& frame, int64_t k, const Series& a, const Series& b) {
  return k == 0 ? a[0] * b[0] : convolve(frame, k, a, b, 0, k);
}

// y with x = scale erf(y / sqrt(2 rate)) + const: y' = w x', w' = 2 rate y w^2 x', as w = c exp(rate y^2).
Series inverse_error_function(const Frame& frame, const Series& x, const at::Tensor& y, double factor, double rate) {
  Series square{at::Tensor()};
  return solve_pair(
      frame,
      x,
      y,
      factor * (rate * y * y).exp(),
      [&](const Frame& lowered, int64_t k, const Series& y, const Series& w) {
        if (k == 0) {
          square = Series(w[0] * w[0]);
        } else {
          square.push(convolve(lowered, k, w, w, 0, k));
        }
        return times(product(lowered, k, y, square), 2 * rate);
      });
}

// exp(x^2) erfc(x): y' = 2 x y - 2 / sqrt(pi).
Series scaled_error_function(const Frame& frame, const Series& x, const at::Tensor& y) {
  return solve_pair(
      frame, x, y, 2 * x[0] * y - M_2_SQRTPI, [&](const Frame& lowered, int64_t k, const Series& y, const Series& w) {
        return times(plus(y[k], product(lowered, k, x, w)), 2);
      });
}

// The logarithm of the normal distribution function: y' = w = exp(-x^2 / 2 - y) / sqrt(2 pi), w' = -(x + w) w.
Series log_normal_distribution(const Frame& frame, const Series& x) {
  const at::Tensor slope = std::sqrt(M_2_PI) / at::special_erfcx(x[0] * -M_SQRT1_2);
  Series sum{at::Tensor()};
  const at::Tensor unused = x[0]; // in place of y's value
  return solve_pair(
      frame, x, unused, slope, [&](const Frame& lowered, int64_t k, const Series& /*y*/, const Series& w) {
        const at::Tensor term = plus(x[k], w[k]);
        if (k == 0) {
          sum = Series(term);
        } else {
          sum.push(term);
        }
        return times(product(lowered, k, sum, w), -1);
      });
}

// sin(pi x) / (pi x). With z = pi x, the derivatives by z follow from z y^(m) + m y^(m-1) = sin^(m)(z), whose rounding
// errors grow upwards where z is small, and downwards where it is large. Downwards it begins kTerms above the last one,
// with zero, of which z^kTerms / (kTerms + 1)! is left.
Series sinc(const Frame& frame, const Series& x) {
  constexpr double kSmall = 4;
  constexpr int64_t kTerms = 30;
  const at::Tensor z = x[0] * M_PI;
  const at::Tensor is_small = z.abs() < kSmall;
  const at::Tensor near = at::where(is_small, z, at::zeros_like(z));
  const at::Tensor far = at::where(is_small, at::ones_like(z), z);
  const at::Tensor sine = near.sin(), cosine = near.cos();
  const std::array<at::Tensor, 4> of_sine{sine, cosine, -sine, -cosine};
  std::vector<at::Tensor> below(frame.order + 1);
  at::Tensor y = at::zeros_like(z);
  for (int64_t m = frame.order + kTerms; m > 1; --m) {
    y = at::addcmul(of_sine[m % 4], near, y, -1).div_(static_cast<double>(m));
    if (m <= frame.order + 1) {
      below[m - 1] = y;
    }
  }
  at::Tensor last = far.sin() / far;
  std::vector<at::Tensor> derivatives;
  double scale = 1;
  for (const auto m : c10::irange<int64_t>(1, frame.order + 1)) {
    last = ((far + M_PI_2 * static_cast<double>(m)).sin() - static_cast<double>(m) * last) / far;
    scale *= M_PI / static_cast<double>(m);
    derivatives.push_back(at::where(is_small, below[m], last) * scale);
  }
  return compose(frame, x, derivatives);
}

// The function whose derivative of order m is polygamma(m + first, x).
Series polygamma_of(const Frame& frame, const Series& x, int64_t first) {
  std::vector<at::Tensor> derivatives;
  double factorial = 1;
  for (const auto m : c10::irange<int64_t>(1, frame.order + 1)) {
    factorial *= static_cast<double>(m);
    derivatives.push_back(at::polygamma(m + first, x[0]) / factorial);
  }
  return compose(frame, x, derivatives);
}

// log(x / (1 - x)), constant beyond [eps, 1 - eps].
Series logit(const Frame& frame, const Series& x, double eps) {
  const Frame lowered = frame.lowered();
  const Series variance = add(lowered, x, square(lowered, x), -1);
  const Series slope = divide(lowered, Series(at::ones_like(x[0])), variance);
  const Series y = integrate(frame, x, slope, x[0]);
  // Without bounds, torch has no derivative beyond [0, 1].
  const at::Tensor beyond = eps < 0 ? (x[0] < 0).logical_or(x[0] > 1) : (x[0] < eps).logical_or(x[0] > 1 - eps);
  return y.map(
      [&](const at::Tensor& k) { return at::where(beyond, eps < 0 ? at::full_like(k, NAN) : at::zeros_like(k), k); });
}

// x log(y + shift), zero where x is.
template <typename T>
Jet x_log_y(const Call& c, const T& node, double shift_by) {
  const at::Tensor factor = c.saved(node.self_);
  const at::Tensor other = c.saved(node.other_);
  // What nothing asks for is not saved.
  const at::Tensor one = at::ones({}, c.node.input_metadata(0).options().dtype(c.frame.dtype));
  const Series x = c.series(0, factor.defined() ? factor : one);
  const Series y = shift(c.series(1, other.defined() ? other : one), shift_by);
  const at::Tensor value = at::where((x[0] == 0).logical_and(y[0] <= 0), at::zeros_like(y[0]), y[0].log());
  return multiply(c.frame, x, log(c.frame, y, value)).jet(c.frame);
}

// -x log(x).
Series entropy(const Frame& frame, const Series& x) {
  return scale(frame, multiply(frame, x, log(frame, x, x[0].log())), -1);
}

void add_gamma_functions(RuleTable& table) {
  add_function<LgammaBackward0>(table, [](const Frame& frame, const Series& x) { return polygamma_of(frame, x, -1); });
  add_function<DigammaBackward0>(table, [](const Frame& frame, const Series& x) { return polygamma_of(frame, x, 0); });
  add_family<PolygammaBackward0>(table, [](const PolygammaBackward0& node) {
    return PointwiseFunction{[n = node.n](const Frame& frame, const Series& x) { return polygamma_of(frame, x, n); }};
  });
  add_family<MvlgammaBackward0>(table, [](const MvlgammaBackward0& node) {
    return PointwiseFunction{[p = node.p](const Frame& frame, const Series& x) {
      Series sum = polygamma_of(frame, x, -1);
      for (const auto j : c10::irange<int64_t>(1, p)) {
        sum = add(frame, sum, polygamma_of(frame, shift(x, -0.5 * static_cast<double>(j)), -1));
      }
      return sum;
    }};
  });
}

} // namespace

void add_special_rules(RuleTable& table) {
  add_gamma_functions(table);
  add_function<ErfinvBackward0>(table, [](const Frame& frame, const Series& x) {
    return inverse_error_function(frame, x, x[0].erfinv(), 1 / M_2_SQRTPI, 1);
  });
  add_function_of_result<SpecialNdtriBackward0>(table, [](const Frame& frame, const Series& x, at::Tensor y) {
    return inverse_error_function(frame, x, y, std::sqrt(2 * M_PI), 0.5);
  });
  add_function<SpecialErfcxBackward0>(table, [](const Frame& frame, const Series& x) {
    return scaled_error_function(frame, x, at::special_erfcx(x[0]));
  });
  add_function<SpecialLogNdtrBackward0>(table, &log_normal_distribution);
  add_function<SincBackward0>(table, &sinc);
  add_family<LogitBackward0>(table, [](const LogitBackward0& node) {
    return PointwiseFunction{
        [eps = node.eps.value_or(-1)](const Frame& frame, const Series& x) { return logit(frame, x, eps); }};
  });
  add_function<SpecialEntrBackward0>(table, &entropy);
  const auto degree = [](Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
    return inputs[1] == 0 ? inputs[0] : kUnbounded;
  };
  add_rule<XlogyBackward0>(
      table, degree, [](const Call& c, const XlogyBackward0& node) { return x_log_y(c, node, 0); });
  add_rule<SpecialXlog1PyBackward0>(
      table, degree, [](const Call& c, const SpecialXlog1PyBackward0& node) { return x_log_y(c, node, 1); });
  add_rule<LogaddexpBackward0>(table, nonlinear_degree, [](const Call& c, const LogaddexpBackward0& node) {
    const Series a = c.series(0, c.saved(node.self_));
    return log_add_exp(c.frame, a, c.series(1, c.saved(node.other_)), 1).jet(c.frame);
  });
  add_rule<Logaddexp2Backward0>(table, nonlinear_degree, [](const Call& c, const Logaddexp2Backward0& node) {
    const Series a = c.series(0, c.saved(node.self_));
    return log_add_exp(c.frame, a, c.series(1, c.saved(node.other_)), M_LN2).jet(c.frame);
  });
}

} // namespace highgrad::taylor
