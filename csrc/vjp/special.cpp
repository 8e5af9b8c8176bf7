// Rules of special functions, of remainders, and of what rounds.

#include <ATen/Functions.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "vjp/factors.h"
#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// (x cos x - sin x) / x^2 with x in half turns.
at::Tensor sinc_slope(const at::Tensor& x) {
  const at::Tensor turned = x * M_PI, square = x * turned;
  return ((turned * turned.cos() - turned.sin()) / square).masked_fill(square.eq(0), 0);
}

// The derivatives of the Bessel functions I1 and of exp(-|x|) I1, from their values; 1/2 at zero.
at::Tensor bessel_slope(const at::Tensor& x, const at::Tensor& value, bool scaled) {
  const double tiny =
      x.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  const at::Tensor is_tiny = x.abs().le(tiny);
  const at::Tensor safe = x.masked_fill(is_tiny, tiny);
  const at::Tensor slope =
      scaled ? at::special_i0e(safe) - value * (safe.sgn() + safe.reciprocal()) : safe.i0() - value * safe.reciprocal();
  return slope.masked_fill(is_tiny, 0.5);
}

void add_error_functions(RuleTable& table) {
  add_factor_of_self<ErfcBackward0>(
      table, [](const at::Tensor& x) { return (-x.pow(2)).exp() * (-2 / std::sqrt(M_PI)); });
  add_factor_of_self<ErfinvBackward0>(
      table, [](const at::Tensor& x) { return x.erfinv().pow(2).exp() * (std::sqrt(M_PI) / 2); });
  add_factor<SpecialErfcxBackward0>(table, [](const Call& call, const SpecialErfcxBackward0& node) {
    return call.saved(node.self_) * 2 * call.saved(node.result_) - 2 / std::sqrt(M_PI);
  });
  add_factor_of_self<SpecialLogNdtrBackward0>(
      table, [](const at::Tensor& x) { return std::sqrt(2 / M_PI) / at::special_erfcx(x * -std::sqrt(0.5)); });
  add_factor_of_result<SpecialNdtriBackward0>(
      table, [](const at::Tensor& y) { return (y.square() / 2).exp() * std::sqrt(2 * M_PI); });
}

void add_gamma_functions(RuleTable& table) {
  add_factor<PolygammaBackward0>(table, [](const Call& call, const PolygammaBackward0& node) {
    return at::polygamma(node.n + 1, call.saved(node.self_));
  });
  add_factor<MvlgammaBackward0>(table, [](const Call& call, const MvlgammaBackward0& node) {
    const at::Tensor x = call.saved(node.self_).unsqueeze(-1);
    const double first = 0.5 - static_cast<double>(node.p) / 2;
    return (x + at::arange(first, 0.5, 0.5, x.options().requires_grad(false))).digamma().sum(-1);
  });
}

void add_bessel_functions(RuleTable& table) {
  add_factor_of_self<I0Backward0>(table, [](const at::Tensor& x) { return at::special_i1(x); });
  add_factor<SpecialI0EBackward0>(table, [](const Call& call, const SpecialI0EBackward0& node) {
    const at::Tensor x = call.saved(node.self_);
    return at::special_i1e(x) - x.sgn() * call.saved(node.result_);
  });
  add_factor<SpecialI1Backward0>(table, [](const Call& call, const SpecialI1Backward0& node) {
    return bessel_slope(call.saved(node.self_), call.saved(node.result_), /*scaled=*/false);
  });
  add_factor<SpecialI1EBackward0>(table, [](const Call& call, const SpecialI1EBackward0& node) {
    return bessel_slope(call.saved(node.self_), call.saved(node.result_), /*scaled=*/true);
  });
}

// x log y, which is zero where x is, whatever the logarithm.
void add_logarithms(RuleTable& table) {
  add_factor_of_self<SpecialEntrBackward0>(table, [](const at::Tensor& x) { return -1 - x.log(); });
  add_rule<XlogyBackward0>(table, [](const Call& call, const XlogyBackward0& node) -> BatchedVjp {
    const at::Tensor x = call.saved(node.self_), y = call.saved(node.other_);
    return [=, is_zero = at::logical_and(x.eq(0), y.le(0)), by_self = call.wants(0), by_other = call.wants(1)](
               Cotangents& taken, Cotangents& given) {
      given[0] = by_self ? at::xlogy(taken[0], y).masked_fill(is_zero, 0) : at::Tensor();
      given[1] = by_other ? taken[0] * x / y : at::Tensor();
    };
  });
  add_unary<XlogyBackward1>(table, [](const Call& call, const XlogyBackward1& node) {
    return [factor = node.self.toDouble() / call.saved(node.other_)](const at::Tensor& grad) {
      return at::mul(grad, factor);
    };
  });
  add_rule<SpecialXlog1PyBackward0>(table, [](const Call& call, const SpecialXlog1PyBackward0& node) -> BatchedVjp {
    const at::Tensor x = call.saved(node.self_), y = call.saved(node.other_);
    return [=, is_zero = at::logical_and(x.eq(0), y.le(-1)), by_self = call.wants(0), by_other = call.wants(1)](
               Cotangents& taken, Cotangents& given) {
      given[0] = by_self ? at::special_xlog1py(taken[0], y).masked_fill(is_zero, 0) : at::Tensor();
      given[1] = by_other ? taken[0] * x / (y + 1) : at::Tensor();
    };
  });
  add_factor<LogitBackward0>(table, [](const Call& call, const LogitBackward0& node) {
    const at::Tensor x = call.saved(node.self_);
    const double low = node.eps.value_or(0), outside = node.eps.has_value() ? 0 : std::nan("");
    const at::Tensor is_inside = at::logical_and(x.ge(low), x.le(1 - low));
    return at::where(is_inside, (x * (1 - x)).reciprocal(), outside);
  });
}

// What is constant but for jumps.
template <typename T>
void add_zero(RuleTable& table) {
  add_unary<T>(table, [](const Call& /*call*/, const T& /*node*/) {
    return [](const at::Tensor& grad) { return at::zeros_like(grad); };
  });
}

template <typename T>
void add_constant_factor(RuleTable& table, double factor) {
  add_unary<T>(table, [factor](const Call& /*call*/, const T& /*node*/) {
    return [factor](at::Tensor grad) { return times(std::move(grad), factor); };
  });
}

// x - y * q, of which q is the quotient, rounded.
template <typename T>
void add_remainder(RuleTable& table, std::string_view rounding) {
  add_rule<T>(table, [rounding](const Call& call, const T& node) -> BatchedVjp {
    const at::Tensor by_other =
        call.wants(1) ? -call.saved(node.self_).div(call.saved(node.other_), rounding) : at::Tensor();
    return [by_other, by_self = call.wants(0)](Cotangents& taken, Cotangents& given) {
      given[1] = by_other.defined() ? at::mul(taken[0], by_other) : at::Tensor();
      given[0] = by_self ? std::move(taken[0]) : at::Tensor();
    };
  });
}

template <typename T>
at::Tensor sign_change(const Call& call, const T& node) {
  const at::Tensor x = call.saved(node.self_);
  return (call.saved(node.result_) / x).masked_fill(x.eq(0), 0);
}

void add_rounding(RuleTable& table) {
  add_zero<CeilBackward0>(table);
  add_zero<FloorBackward0>(table);
  add_zero<RoundBackward0>(table);
  add_zero<RoundBackward1>(table);
  add_zero<TruncBackward0>(table);
  add_zero<SignBackward0>(table);
  add_zero<SgnBackward0>(table); // of real numbers
  add_identity<FracBackward0>(table);
  add_constant_factor<Deg2RadBackward0>(table, M_PI / 180);
  add_constant_factor<Rad2DegBackward0>(table, 180 / M_PI);
  add_remainder<FmodBackward1>(table, "trunc");
  add_remainder<RemainderBackward1>(table, "floor");
  add_factor<CopysignBackward1>(table, &sign_change<CopysignBackward1>);
  add_rule<CopysignBackward0>(table, [](const Call& call, const CopysignBackward0& node) -> BatchedVjp {
    const at::Tensor factor = call.wants(0) ? sign_change(call, node) : at::Tensor();
    return [factor, by_other = call.wants(1)](Cotangents& taken, Cotangents& given) {
      given[0] = factor.defined() ? at::mul(taken[0], factor) : at::Tensor();
      given[1] = by_other ? at::zeros_like(taken[0]) : at::Tensor();
    };
  });
  add_rule<DivBackward2>(table, [](const Call& call, const DivBackward2& node) -> BatchedVjp {
    if (!node.rounding_mode.has_value()) {
      return nullptr;
    }
    return [by_self = call.wants(0), by_other = call.wants(1)](Cotangents& taken, Cotangents& given) {
      const at::Tensor zeros = at::zeros_like(taken[0]);
      given[0] = by_self ? zeros : at::Tensor();
      given[1] = by_other ? zeros : at::Tensor();
    };
  });
  add_factor_of_self<NanToNumBackward0>(table, [](const at::Tensor& x) { return x.isfinite(); });
  add_factor_of_self<SincBackward0>(table, &sinc_slope);
}

} // namespace

void add_special_rules(RuleTable& table) {
  add_error_functions(table);
  add_gamma_functions(table);
  add_bessel_functions(table);
  add_logarithms(table);
  add_rounding(table);
}

} // namespace highgrad::vjp
