// Rules of elementwise Nodes. Most multiply by a factor that is computed once.

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <cmath>
#include <functional>
#include <utility>

#include "torch_compat.h"
#include "vjp/factors.h"
#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// The derivative by the Node's own operator, of which `make` gives a function of cotangents. What it makes of ones is
// the factor for several rows; a single one it takes as it is.
template <typename T, typename Make>
void add_derivative(RuleTable& table, Make make) {
  add_unary<T>(table, [make](const Call& call, const T& node) -> std::function<at::Tensor(at::Tensor)> {
    auto derivative = make(call, node);
    if (call.is_one_row && !at::GradMode::is_enabled()) {
      return derivative;
    }
    return [scale = derivative(at::ones(call.taken[0], node.input_metadata(0).options()))](at::Tensor grad) {
      return times(std::move(grad), scale);
    };
  });
}

// The same, where the operator is no longer than a product: `write` has the memory to write to, the cotangents, perhaps
// in it, and the result of the Node.
template <typename T, typename Derivative, typename Write>
void add_short_derivative(RuleTable& table, Derivative derivative, Write write) {
  add_unary<T>(table, [derivative, write](const Call& call, const T& node) -> std::function<at::Tensor(at::Tensor)> {
    const at::Tensor y = call.saved(node.result_);
    if (at::GradMode::is_enabled()) {
      return [scale = derivative(at::ones(call.taken[0], node.input_metadata(0).options()), y)](at::Tensor grad) {
        return times(std::move(grad), scale);
      };
    }
    return [derivative, write, y](at::Tensor grad) {
      return is_ours(grad) && grad.scalar_type() == y.scalar_type() ? write(grad, grad, y) : derivative(grad, y);
    };
  });
}

// grad / f(x), which rounds otherwise than grad * (1 / f(x)).
template <typename T, typename Divisor>
void add_divisor(RuleTable& table, Divisor divisor) {
  add_unary<T>(table, [divisor](const Call& call, const T& node) {
    return [by = divisor(call, node)](at::Tensor grad) { return is_ours(grad) ? grad.div_(by) : at::div(grad, by); };
  });
}

template <typename T, typename Mask>
void add_mask(RuleTable& table, Mask mask) {
  add_unary<T>(table, [mask](const Call& call, const T& node) {
    return [kept = mask(call.saved(node.self_), node)](const at::Tensor& grad) { return keep_where(kept, grad); };
  });
}

// The same, by the Node's own operator, of which `derivative` gives the product of ones: what that does to NaN depends
// on the kernel that it takes.
template <typename T, typename Derivative>
void add_mask_of_operator(RuleTable& table, Derivative derivative) {
  add_mask<T>(
      table, [derivative](const at::Tensor& x, const T& node) { return derivative(at::ones_like(x), x, node).ne(0); });
}

// Where clamp's derivative by x is 1.
at::Tensor above(const at::Tensor& x, const at::Scalar& bound) {
  return kClampPassesAtBounds ? x.ge(bound) : x.gt(bound);
}

at::Tensor below(const at::Tensor& x, const at::Scalar& bound) {
  return kClampPassesAtBounds ? x.le(bound) : x.lt(bound);
}

void add_exponentials(RuleTable& table) {
  add_factor_of_result<ExpBackward0>(table, [](at::Tensor y) { return y; });
  add_factor_of_result<Exp2Backward0>(table, [](const at::Tensor& y) { return y * std::log(2.0); });
  add_factor_of_result<Expm1Backward0>(table, [](const at::Tensor& y) { return y + 1; });
  add_divisor<LogBackward0>(table, [](const Call& call, const LogBackward0& node) { return call.saved(node.self_); });
  add_divisor<Log1PBackward0>(
      table, [](const Call& call, const Log1PBackward0& node) { return call.saved(node.self_) + 1; });
  add_divisor<Log2Backward0>(
      table, [](const Call& call, const Log2Backward0& node) { return call.saved(node.self_) * std::log(2.0); });
  add_divisor<Log10Backward0>(
      table, [](const Call& call, const Log10Backward0& node) { return call.saved(node.self_) * std::log(10.0); });
  add_divisor<SqrtBackward0>(
      table, [](const Call& call, const SqrtBackward0& node) { return call.saved(node.result_) * 2; });
  add_factor_of_result<RsqrtBackward0>(table, [](const at::Tensor& y) { return y.pow(3) * -0.5; });
  add_factor_of_result<ReciprocalBackward0>(table, [](const at::Tensor& y) { return -(y * y); });
}

void add_trigonometry(RuleTable& table) {
  add_factor_of_self<SinBackward0>(table, [](const at::Tensor& x) { return x.cos(); });
  add_factor_of_self<CosBackward0>(table, [](const at::Tensor& x) { return -x.sin(); });
  add_factor_of_result<TanBackward0>(table, [](const at::Tensor& y) { return y.pow(2) + 1; });
  add_factor_of_self<SinhBackward0>(table, [](const at::Tensor& x) { return x.cosh(); });
  add_factor_of_self<CoshBackward0>(table, [](const at::Tensor& x) { return x.sinh(); });
  add_factor_of_self<AsinBackward0>(table, [](const at::Tensor& x) { return (-x * x + 1).rsqrt(); });
  add_factor_of_self<AcosBackward0>(table, [](const at::Tensor& x) { return -(-x * x + 1).rsqrt(); });
  add_divisor<AtanBackward0>(table, [](const Call& call, const AtanBackward0& node) {
    const at::Tensor x = call.saved(node.self_);
    return x * x + 1;
  });
  add_factor_of_self<AsinhBackward0>(table, [](const at::Tensor& x) { return (x.pow(2) + 1).rsqrt(); });
  add_factor_of_self<AcoshBackward0>(table, [](const at::Tensor& x) { return (x.pow(2) - 1).rsqrt(); });
  add_divisor<AtanhBackward0>(
      table, [](const Call& call, const AtanhBackward0& node) { return 1 - call.saved(node.self_).pow(2); });
}

void add_activations(RuleTable& table) {
  add_short_derivative<TanhBackward0>(
      table,
      [](const at::Tensor& grad, const at::Tensor& y) { return at::tanh_backward(grad, y); },
      [](at::Tensor& to, const at::Tensor& grad, const at::Tensor& y) { return at::tanh_backward_out(to, grad, y); });
  add_short_derivative<SigmoidBackward0>(
      table,
      [](const at::Tensor& grad, const at::Tensor& y) { return at::sigmoid_backward(grad, y); },
      [](at::Tensor& to, const at::Tensor& grad, const at::Tensor& y) {
        return at::sigmoid_backward_out(to, grad, y);
      });
  add_unary<ReluBackward0>(table, [](const Call& call, const ReluBackward0& node) {
    return [y = call.saved(node.result_)](const at::Tensor& grad) { return at::threshold_backward(grad, y, 0); };
  });
  add_unary<ThresholdBackward0>(table, [](const Call& call, const ThresholdBackward0& node) {
    return [x = call.saved(node.self_), threshold = node.threshold](const at::Tensor& grad) {
      return at::threshold_backward(grad, x, threshold);
    };
  });
  add_derivative<LeakyReluBackward0>(table, [](const Call& call, const LeakyReluBackward0& node) {
    return [x = call.saved(node.self_), slope = node.negative_slope](const at::Tensor& grad) {
      return at::leaky_relu_backward(grad, x, slope, /*self_is_result=*/false);
    };
  });
  add_derivative<EluBackward0>(table, [](const Call& call, const EluBackward0& node) {
    return [x = call.saved(node.self_), alpha = node.alpha, scale = node.scale, input_scale = node.input_scale](
               const at::Tensor& grad) {
      return at::elu_backward(grad, alpha, scale, input_scale, /*is_result=*/false, x);
    };
  });
  add_derivative<GeluBackward0>(table, [](const Call& call, const GeluBackward0& node) {
    return [x = call.saved(node.self_), approximate = node.approximate](const at::Tensor& grad) {
      return at::gelu_backward(grad, x, approximate);
    };
  });
  add_derivative<SoftplusBackward0>(table, [](const Call& call, const SoftplusBackward0& node) {
    return [x = call.saved(node.self_), beta = node.beta, threshold = node.threshold](const at::Tensor& grad) {
      return at::softplus_backward(grad, x, beta, threshold);
    };
  });
  add_factor_of_self<SiluBackward0>(table, [](const at::Tensor& x) {
    const at::Tensor y = x.sigmoid();
    return y * (1 + x * (1 - y));
  });
  add_derivative<CeluBackward0>(table, [](const Call& call, const CeluBackward0& node) {
    return [x = call.saved(node.self_), alpha = node.alpha](const at::Tensor& grad) {
      return at::elu_backward(grad, alpha, 1, 1 / alpha.toDouble(), /*is_result=*/false, x);
    };
  });
  add_unary<HardswishBackward0>(table, [](const Call& call, const HardswishBackward0& node) {
    const at::Tensor x = call.saved(node.self_);
    const at::Tensor scale = at::hardswish_backward(at::ones_like(x), x);
    // A cotangent that is infinite where the result is flat, as that of its root, does not matter.
    return [scale, is_kept = x.lt(-3).logical_not()](const at::Tensor& grad) {
      return keep_where(is_kept, at::mul(grad, scale));
    };
  });
  // The probability of the first is that to be dropped, of the second that to be kept.
  add_factor<NativeDropoutBackward0>(table, [](const Call& call, const NativeDropoutBackward0& node) {
    const at::Tensor kept = call.saved(node.result1_).to(node.input_metadata(0).dtype());
    return !node.train.value_or(false) ? kept : kept * (node.p == 1 ? 0 : 1 / (1 - node.p));
  });
  add_factor<FusedDropoutBackward0>(table, [](const Call& call, const FusedDropoutBackward0& node) {
    return call.saved(node.result1_).to(node.input_metadata(0).dtype()) * (1 / node.p);
  });
  add_factor_of_self<MishBackward0>(table, [](const at::Tensor& x) {
    const at::Tensor t = at::softplus(x).tanh();
    return t + x * x.sigmoid() * (1 - t * t);
  });
  add_factor_of_self<LogSigmoidBackward0>(table, [](const at::Tensor& x) { return (-x).sigmoid(); });
  add_mask_of_operator<HardtanhBackward0>(
      table, [](const at::Tensor& ones, const at::Tensor& x, const HardtanhBackward0& node) {
        return at::hardtanh_backward(ones, x, node.min_val, node.max_val);
      });
  add_derivative<RreluWithNoiseBackward0>(table, [](const Call& call, const RreluWithNoiseBackward0& node) {
    return [x = call.saved(node.self_),
            noise = call.saved(node.noise_),
            lower = node.lower,
            upper = node.upper,
            training = node.training](const at::Tensor& grad) {
      return at::rrelu_with_noise_backward(grad, x, noise, lower, upper, training, /*self_is_result=*/false);
    };
  });
  add_mask_of_operator<HardshrinkBackward0>(
      table, [](const at::Tensor& ones, const at::Tensor& x, const HardshrinkBackward0& node) {
        return at::hardshrink_backward(ones, x, node.lambd);
      });
  add_mask_of_operator<SoftshrinkBackward0>(
      table, [](const at::Tensor& ones, const at::Tensor& x, const SoftshrinkBackward0& node) {
        return at::softshrink_backward(ones, x, node.lambd);
      });
  add_unary<HardsigmoidBackward0>(table, [](const Call& call, const HardsigmoidBackward0& node) {
    const at::Tensor x = call.saved(node.self_);
    // Of the precision that torch's has.
    const at::Tensor slope = at::hardsigmoid_backward(at::ones({}, x.options()), at::zeros({}, x.options()));
    return [slope, kept = at::logical_and(x.gt(-3), x.lt(3))](const at::Tensor& grad) {
      return keep_where(kept, at::mul(grad, slope));
    };
  });
  add_rule<PreluKernelBackward0>(table, [](const Call& call, const PreluKernelBackward0& node) -> BatchedVjp {
    const at::Tensor x = call.saved(node.self_), weight = call.saved(node.weight_);
    return [x, weight, is_positive = x.gt(0), by_self = call.wants(0), by_weight = call.wants(1)](
               Cotangents& taken, Cotangents& given) {
      given[0] = by_self ? at::where(is_positive, taken[0], at::mul(taken[0], weight)) : at::Tensor();
      given[1] = by_weight ? at::mul(taken[0], x).masked_fill(is_positive, 0) : at::Tensor();
    };
  });
  add_unary<GluBackward0>(
      table, [](const Call& call, const GluBackward0& node) -> std::function<at::Tensor(const at::Tensor&)> {
        const at::Tensor x = call.saved(node.self_);
        if (x.dim() == 0) {
          throw Unserved("glu of a number");
        }
        const std::vector<at::Tensor> halves = x.chunk(2, node.dim);
        const at::Tensor gate = halves[1].sigmoid(), by_gate = halves[0] * gate * (1 - gate);
        return [gate, by_gate, dim = batched_dim(node.dim, *call.given[0])](const at::Tensor& grad) {
          return at::cat({at::mul(grad, gate), at::mul(grad, by_gate)}, dim);
        };
      });
  add_factor_of_self<LgammaBackward0>(table, [](const at::Tensor& x) { return x.digamma(); });
  add_factor_of_self<DigammaBackward0>(table, [](const at::Tensor& x) { return at::polygamma(1, x); });
  add_factor_of_self<ErfBackward0>(
      table, [](const at::Tensor& x) { return (-x.pow(2)).exp() * (2 / std::sqrt(M_PI)); });
  add_factor_of_self<AbsBackward0>(table, [](const at::Tensor& x) { return x.sgn(); });
  add_mask<ClampBackward1>(table, [](const at::Tensor& x, const ClampBackward1& node) {
    at::Tensor kept = at::ones_like(x, x.options().dtype(at::kBool));
    kept = node.min.has_value() ? at::logical_and(kept, above(x, *node.min)) : kept;
    return node.max.has_value() ? at::logical_and(kept, below(x, *node.max)) : kept;
  });
  add_mask<ClampMinBackward0>(
      table, [](const at::Tensor& x, const ClampMinBackward0& node) { return above(x, node.min); });
  add_mask<ClampMaxBackward0>(
      table, [](const at::Tensor& x, const ClampMaxBackward0& node) { return below(x, node.max); });
}

void add_functions_of_several(RuleTable& table) {
  add_rule<Atan2Backward0>(table, [](const Call& call, const Atan2Backward0& node) -> BatchedVjp {
    const at::Tensor y = call.saved(node.self_), x = call.saved(node.other_);
    const at::Tensor square = y * y + x * x;
    const at::Tensor inverse = square.reciprocal().masked_fill(square.eq(0), 0);
    return by_factors({call.wants(0) ? x * inverse : at::Tensor(), call.wants(1) ? -y * inverse : at::Tensor()});
  });
  add_rule<HypotBackward0>(table, [](const Call& call, const HypotBackward0& node) -> BatchedVjp {
    const at::Tensor result = call.saved(node.result_);
    return by_factors(
        {call.wants(0) ? call.saved(node.self_) / result : at::Tensor(),
         call.wants(1) ? call.saved(node.other_) / result : at::Tensor()});
  });
  add_rule<AddcmulBackward0>(table, [](const Call& call, const AddcmulBackward0& node) -> BatchedVjp {
    const at::Tensor first = call.wants(1) ? call.saved(node.tensor2_) * node.value : at::Tensor();
    const at::Tensor second = call.wants(2) ? call.saved(node.tensor1_) * node.value : at::Tensor();
    return [first, second, by_self = call.wants(0)](Cotangents& taken, Cotangents& given) {
      given[1] = first.defined() ? at::mul(taken[0], first) : at::Tensor();
      given[2] = second.defined() ? at::mul(taken[0], second) : at::Tensor();
      given[0] = by_self ? taken[0] : at::Tensor();
    };
  });
  add_rule<AddcdivBackward0>(table, [](const Call& call, const AddcdivBackward0& node) -> BatchedVjp {
    const at::Tensor divisor = call.saved(node.tensor2_);
    const at::Tensor first = call.wants(1) ? node.value / divisor : at::Tensor();
    const at::Tensor second =
        call.wants(2) ? call.saved(node.tensor1_) * -node.value / (divisor * divisor) : at::Tensor();
    return [first, second, by_self = call.wants(0)](Cotangents& taken, Cotangents& given) {
      given[1] = first.defined() ? at::mul(taken[0], first) : at::Tensor();
      given[2] = second.defined() ? at::mul(taken[0], second) : at::Tensor();
      given[0] = by_self ? taken[0] : at::Tensor();
    };
  });
  add_rule<LogaddexpBackward0>(table, [](const Call& call, const LogaddexpBackward0& node) -> BatchedVjp {
    const at::Tensor gap = call.saved(node.other_) - call.saved(node.self_);
    return by_factors(
        {call.wants(0) ? (gap.exp() + 1).reciprocal() : at::Tensor(),
         call.wants(1) ? ((-gap).exp() + 1).reciprocal() : at::Tensor()});
  });
  add_rule<Logaddexp2Backward0>(table, [](const Call& call, const Logaddexp2Backward0& node) -> BatchedVjp {
    const at::Tensor gap = call.saved(node.other_) - call.saved(node.self_);
    return by_factors(
        {call.wants(0) ? (gap.exp2() + 1).reciprocal() : at::Tensor(),
         call.wants(1) ? ((-gap).exp2() + 1).reciprocal() : at::Tensor()});
  });
  add_rule<LerpBackward1>(table, [](const Call& call, const LerpBackward1& node) -> BatchedVjp {
    const at::Tensor weight = call.saved(node.weight_);
    return by_factors(
        {call.wants(0) ? 1 - weight : at::Tensor(),
         call.wants(1) ? weight : at::Tensor(),
         call.wants(2) ? call.saved(node.end_) - call.saved(node.self_) : at::Tensor()});
  });
  add_rule<LerpBackward0>(table, [](const Call& call, const LerpBackward0& node) -> BatchedVjp {
    return [weight = node.weight.toDouble(), by_self = call.wants(0), by_end = call.wants(1)](
               Cotangents& taken, Cotangents& given) {
      given[0] = by_self ? at::mul(taken[0], 1 - weight) : at::Tensor();
      given[1] = by_end ? at::mul(taken[0], weight) : at::Tensor();
    };
  });
}

void add_products_of_tensors(RuleTable& table) {
  add_rule<MulBackward0>(table, [](const Call& call, const MulBackward0& node) -> BatchedVjp {
    const at::Tensor other = call.wants(0) ? call.saved(node.other_) : at::Tensor();
    const at::Tensor self = call.wants(1) ? call.saved(node.self_) : at::Tensor();
    return [other, self](Cotangents& taken, Cotangents& given) {
      if (self.defined()) {
        given[1] = at::mul(taken[0], self);
      }
      if (other.defined()) {
        given[0] = times(std::move(taken[0]), other);
      }
    };
  });
  add_unary<MulBackward1>(table, [](const Call& /*call*/, const MulBackward1& node) {
    return [factor = node.other](at::Tensor grad) { return times(std::move(grad), factor); };
  });
  add_rule<DivBackward0>(table, [](const Call& call, const DivBackward0& node) -> BatchedVjp {
    const at::Tensor other = call.saved(node.other_);
    const at::Tensor by_other = call.wants(1) ? -((call.saved(node.self_) / other) / other) : at::Tensor();
    return [other, by_other, by_self = call.wants(0)](Cotangents& taken, Cotangents& given) {
      if (by_other.defined()) {
        given[1] = at::mul(taken[0], by_other);
      }
      if (by_self) {
        given[0] = at::div(taken[0], other);
      }
    };
  });
  add_unary<DivBackward1>(table, [](const Call& /*call*/, const DivBackward1& node) {
    return [by = node.other](at::Tensor grad) { return is_ours(grad) ? grad.div_(by) : at::div(grad, by); };
  });
  add_unary<PowBackward0>(
      table, [](const Call& call, const PowBackward0& node) -> std::function<at::Tensor(at::Tensor)> {
        if (node.exponent.equal(0.0)) {
          return [](const at::Tensor& grad) { return at::zeros_like(grad); };
        }
        const at::Tensor x = call.saved(node.self_);
        // What pow gives for these exponents, bit for bit, without its dispatch.
        const at::Tensor power = node.exponent.equal(2.0) ? x
            : node.exponent.equal(3.0)                    ? x * x
                                                          : x.pow(node.exponent.toDouble() - 1);
        return [factor = power * node.exponent](at::Tensor grad) { return times(std::move(grad), factor); };
      });
  add_rule<PowBackward1>(table, [](const Call& call, const PowBackward1& node) -> BatchedVjp {
    const at::Tensor x = call.saved(node.self_);
    const at::Tensor exponent = call.saved(node.exponent_);
    at::Tensor by_self, self_kept, by_exponent, exponent_kept;
    if (call.wants(0)) {
      by_self = exponent * x.pow(exponent - 1);
      self_kept = exponent.ne(0);
    }
    if (call.wants(1)) {
      by_exponent = call.saved(node.result_) * x.log();
      exponent_kept = at::logical_and(x.eq(0), exponent.ge(0)).logical_not();
    }
    return [=](Cotangents& taken, Cotangents& given) {
      if (by_self.defined()) {
        given[0] = keep_where(self_kept, at::mul(taken[0], by_self));
      }
      if (by_exponent.defined()) {
        given[1] = keep_where(exponent_kept, at::mul(taken[0], by_exponent));
      }
    };
  });
}

template <typename T>
void add_masked_fill(RuleTable& table) {
  add_rule<T>(table, [](const Call& call, const T& node) -> BatchedVjp {
    // The mask itself may have a link, and no derivative.
    const size_t value = call.given.size() - 1;
    return [mask = call.saved(node.mask_), value, by_self = call.wants(0), by_value = value > 0 && call.wants(value)](
               Cotangents& taken, Cotangents& given) {
      if (by_value) {
        given[value] = keep_where(mask, taken[0]);
      }
      given[0] = by_self ? taken[0].masked_fill(mask, 0) : at::Tensor();
    };
  });
}

// The larger, or the smaller, takes all; equal ones take halves. link: where the other is handed on to.
BatchedVjp extremum(const Call& call, const at::Tensor& self, const at::Tensor& other, bool is_max, size_t link = 1) {
  const at::Tensor tie = self.eq(other);
  const at::Tensor self_loses = is_max ? self.lt(other) : self.gt(other);
  const at::Tensor other_loses = is_max ? self.gt(other) : self.lt(other);
  return [=, by_self = call.wants(0), by_other = call.wants(link)](Cotangents& taken, Cotangents& given) {
    const at::Tensor grad = at::where(tie, taken[0] / 2, taken[0]);
    given[0] = by_self ? grad.masked_fill(self_loses, 0) : at::Tensor();
    given[link] = by_other ? grad.masked_fill(other_loses, 0) : at::Tensor();
  };
}

// Of what is clamped by a tensor: an extremum, but that earlier versions of torch give nothing to a bound that it
// equals.
BatchedVjp clamped_by(const Call& call, const at::Tensor& x, const at::Tensor& bound, bool is_max, size_t link = 1) {
  if (!kClampPassesAtBounds) {
    return extremum(call, x, bound, is_max, link);
  }
  const at::Tensor is_kept = is_max ? x.ge(bound) : x.le(bound), is_bound = is_max ? x.lt(bound) : x.gt(bound);
  return [=, by_self = call.wants(0), by_bound = call.wants(link)](Cotangents& taken, Cotangents& given) {
    given[0] = by_self ? keep_where(is_kept, taken[0]) : at::Tensor();
    given[link] = by_bound ? keep_where(is_bound, taken[0]) : at::Tensor();
  };
}

// Likewise of two bounds; where they cross, the upper one counts.
BatchedVjp clamped_between(const Call& call, const at::Tensor& x, const at::Tensor& min, const at::Tensor& max) {
  const auto type = x.scalar_type();
  const at::Tensor is_between = min.lt(max), is_above = at::logical_or(x.gt(max), max.lt(min));
  at::Tensor by_self, by_min, by_max;
  if (kClampPassesAtBounds) {
    by_self = at::logical_and(x.ge(min), x.le(max)).to(type);
    by_min = at::logical_and(x.lt(min), is_between).to(type);
    by_max = is_above.to(type);
  } else {
    const at::Tensor half = is_between.to(type) / 2;
    by_min = at::logical_and(x.lt(min), min.le(max)).to(type) + x.eq(min).to(type) * half;
    by_max = is_above.to(type) + x.eq(max).to(type) * half;
    by_self = 1 - by_min - by_max;
  }
  std::vector<at::Tensor> shares = {by_self, by_min, by_max};
  for (const size_t link : {0, 1, 2}) {
    shares[link] = call.wants(link) ? shares[link] : at::Tensor();
  }
  return [shares](Cotangents& taken, Cotangents& given) {
    for (const size_t link : {0, 1, 2}) {
      given[link] =
          shares[link].defined() ? keep_where(shares[link].ne(0), at::mul(taken[0], shares[link])) : at::Tensor();
    }
  };
}

void add_bounds(RuleTable& table) {
  add_rule<ClampMinBackward1>(table, [](const Call& call, const ClampMinBackward1& node) {
    return clamped_by(call, call.saved(node.self_), call.saved(node.min_), /*is_max=*/true);
  });
  add_rule<ClampMaxBackward1>(table, [](const Call& call, const ClampMaxBackward1& node) {
    return clamped_by(call, call.saved(node.self_), call.saved(node.max_), /*is_max=*/false);
  });
  add_rule<ClampBackward0>(table, [](const Call& call, const ClampBackward0& node) -> BatchedVjp {
    const at::Tensor x = call.saved(node.self_), min = call.saved(node.min_), max = call.saved(node.max_);
    if (min.defined() && max.defined()) {
      return clamped_between(call, x, min, max);
    }
    return min.defined() ? clamped_by(call, x, min, /*is_max=*/true) : clamped_by(call, x, max, /*is_max=*/false, 2);
  });
}

void add_choices(RuleTable& table) {
  add_rule<WhereBackward0>(table, [](const Call& call, const WhereBackward0& node) -> BatchedVjp {
    const at::Tensor condition = call.saved(node.condition_);
    // The condition itself has a link, and no derivative.
    const size_t first = call.given.size() - 2;
    return [condition, first, by_self = call.wants(first), by_other = call.wants(first + 1)](
               Cotangents& taken, Cotangents& given) {
      const at::Tensor zero = at::scalar_tensor(0, taken[0].options());
      given[first] = by_self ? at::where(condition, taken[0], zero) : at::Tensor();
      given[first + 1] = by_other ? at::where(condition, zero, taken[0]) : at::Tensor();
    };
  });
  add_masked_fill<MaskedFillBackward0>(table); // with a number
  add_masked_fill<MaskedFillBackward1>(table);
  add_bounds(table);
  // Where both are equal, the first; one that is NaN loses.
  const auto first_of = [](const Call& call, const at::Tensor& self_wins) -> BatchedVjp {
    return [self_wins, by_self = call.wants(0), by_other = call.wants(1)](Cotangents& taken, Cotangents& given) {
      given[0] = by_self ? keep_where(self_wins, taken[0]) : at::Tensor();
      given[1] = by_other ? taken[0].masked_fill(self_wins, 0) : at::Tensor();
    };
  };
  add_rule<FmaxBackward0>(table, [first_of](const Call& call, const FmaxBackward0& node) {
    const at::Tensor self = call.saved(node.self_), other = call.saved(node.other_);
    return first_of(call, self.ge(other).logical_or_(other.isnan()));
  });
  add_rule<FminBackward0>(table, [first_of](const Call& call, const FminBackward0& node) {
    const at::Tensor self = call.saved(node.self_), other = call.saved(node.other_);
    return first_of(call, self.le(other).logical_or_(other.isnan()));
  });
  add_rule<MaximumBackward0>(table, [](const Call& call, const MaximumBackward0& node) {
    return extremum(call, call.saved(node.self_), call.saved(node.other_), true);
  });
  add_rule<MinimumBackward0>(table, [](const Call& call, const MinimumBackward0& node) {
    return extremum(call, call.saved(node.self_), call.saved(node.other_), false);
  });
}

} // namespace

void add_sum_rules(RuleTable& table) {
  const auto sum = [](const Call& call, const at::Scalar& first, const at::Scalar& second) -> BatchedVjp {
    return [first, second, wants_first = call.wants(0), wants_second = call.wants(1)](
               Cotangents& taken, Cotangents& given) {
      if (wants_first && wants_second) {
        given[0] = times(taken[0], first);
      }
      at::Tensor& last = given[wants_second ? 1 : 0];
      last = times(std::move(taken[0]), wants_second ? second : first);
    };
  };
  add_rule<AddBackward0>(
      table, [sum](const Call& call, const AddBackward0& node) { return sum(call, 1, node.alpha.conj()); });
  add_rule<SubBackward0>(
      table, [sum](const Call& call, const SubBackward0& node) { return sum(call, 1, -node.alpha.conj()); });
  add_rule<RsubBackward0>(
      table, [sum](const Call& call, const RsubBackward0& node) { return sum(call, -node.alpha.conj(), 1); });
  add_identity<AddBackward1>(table);
  add_identity<SubBackward1>(table);
  add_unary<RsubBackward1>(table, [](const Call& /*call*/, const RsubBackward1& node) {
    return [factor = -node.alpha.conj()](at::Tensor grad) { return times(std::move(grad), factor); };
  });
  add_unary<NegBackward0>(table, [](const Call& /*call*/, const NegBackward0& /*node*/) {
    return [](at::Tensor grad) { return is_ours(grad) ? grad.neg_() : at::neg(grad); };
  });
}

void add_pointwise_rules(RuleTable& table) {
  add_exponentials(table);
  add_trigonometry(table);
  add_activations(table);
  add_functions_of_several(table);
  add_sum_rules(table);
  add_products_of_tensors(table);
  add_choices(table);
}

} // namespace highgrad::vjp
