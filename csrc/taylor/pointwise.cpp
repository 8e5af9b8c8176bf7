// Rules of operations that map one tensor element by element.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/csrc/autograd/graph_task.h>

#include <cmath>
#include <utility>

#include "engine/batched_vjp.h"
#include "taylor/pointwise.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;
using torch::autograd::SavedVariable;

// A piecewise linear function: its slope is its own product with ones, a constant.
at::Tensor slope_of(const Call& call) {
  const at::NoGradGuard not_recorded;
  const at::Tensor ones = at::ones(call.output_shape(), call.node.input_metadata(0).options());
  at::Tensor slope;
  if (torch::autograd::get_current_graph_task_id() == -1) {
    slope = call.node({ones})[0];
  } else {
    // Within a pass, a Node gives no more than that pass asks of it: another one asks for this.
    slope = engine::single_vjp({{call.node.getptr(), 0}}, {ones}, {call.node.next_edge(0)}, {})[0];
    slope = slope.defined() ? slope.squeeze(0) : slope;
  }
  if (!slope.defined()) {
    throw Unsupported(call.node.name() + " gives no slope");
  }
  return slope.to(call.frame.dtype);
}

template <typename T>
void add_piecewise_linear(RuleTable& table) {
  add_rule<T>(table, linear_degree, [](const Call& call, const T& /*node*/) {
    return Jet{call.inputs[0].rows * slope_of(call), call.inputs[0].terms};
  });
}

// A piecewise constant function.
template <typename... T>
void add_steps(RuleTable& table) {
  const auto degree = [](torch::autograd::Node& /*node*/, c10::ArrayRef<int64_t> /*inputs*/) { return int64_t{0}; };
  (add_rule<T>(table, degree, [](const Call& /*call*/, const T& /*node*/) { return Jet{}; }), ...);
}

// 1 + sign * x^2, of the orders that a slope needs.
Series one_plus_square(const Frame& frame, const Series& x, double sign) {
  return shift(scale(frame.lowered(), square(frame.lowered(), x), sign), 1);
}

Series inverse(const Frame& frame, const Series& x) {
  return divide(frame, Series(at::ones({}, x[0].options())), x);
}

Series inverse_sqrt(const Frame& frame, const Series& x) {
  return power(frame, x, -0.5, x[0].rsqrt());
}

Series sigmoid_of(const Frame& frame, const Series& x) {
  return sigmoid(frame, x, at::sigmoid(x[0]));
}

// Softplus where beta x is at most the threshold, x elsewhere, as torch has it.
Series softplus_of(const Frame& frame, const Series& x, double beta, double threshold) {
  const Series scaled = scale(frame, x, beta);
  const Series slope = sigmoid_of(frame.lowered(), scaled);
  const Series one(at::ones({}, x[0].options()));
  return integrate(
      frame, x, select(frame.lowered(), scaled[0] > threshold, one, slope), at::softplus(x[0], beta, threshold));
}

// Of y' = w x' with the values y, and w where y does not give it.
LocalSeries solution(const Slope& slope, at::Tensor y) {
  return {LocalKind::kSolution, {std::move(y)}, slope};
}

LocalSeries solution(const Slope& slope, at::Tensor y, at::Tensor w) {
  return {LocalKind::kSolution, {std::move(y), std::move(w)}, slope};
}

// d erf / dx = 2 / sqrt(pi) exp(-x^2).
Series gauss(const Frame& frame, const Series& x) {
  const Series exponent = scale(frame, square(frame, x), -1);
  return scale(frame, exp(frame, exponent, exponent[0].exp()), M_2_SQRTPI);
}

Series gelu_erf(const Frame& frame, const Series& x) {
  const Series scaled = scale(frame, x, M_SQRT1_2);
  const Series erf = integrate(frame, scaled, gauss(frame.lowered(), scaled), scaled[0].erf());
  return scale(frame, multiply(frame, x, shift(erf, 1)), 0.5);
}

LocalSeries softplus_seeds(const at::Tensor& x, double beta, double threshold) {
  const at::Tensor scaled = beta == 1 ? x : x * beta;
  return {LocalKind::kSoftplus, {x, at::sigmoid(scaled)}, {}, beta, threshold};
}

LocalSeries gelu_seeds(const at::Tensor& x) {
  const at::Tensor one = at::ones({}, x.options()).expand(x.sizes());
  return {LocalKind::kGelu, {x, at::gelu_backward(one, x), (x * x).mul_(-0.5).exp_()}};
}

Series gelu_tanh(const Frame& frame, const Series& x) {
  constexpr double kCubic = 0.044715;
  const Series cube = multiply(frame, square(frame, x), x);
  const Series inner = scale(frame, add(frame, x, cube, kCubic), M_SQRT2 * M_2_SQRTPI * 0.5);
  return scale(frame, multiply(frame, x, shift(tanh(frame, inner, inner[0].tanh()), 1)), 0.5);
}

// below * (exp(inner x) - 1) where x is not positive, above * x elsewhere. At zero, torch has the slope of the one and
// the curvature of the other.
Series elu(const Frame& frame, const Series& x, double below, double above, double inner) {
  const Series scaled = scale(frame, x, inner);
  // exp only where it is used: it overflows where x is large.
  const Series decay = exp(frame, scaled, scaled[0].clamp_max(0).exp());
  const at::Tensor slope = (x[0] == 0).to(frame.dtype) * (below * inner - above) + above;
  const Series line = x.map([&](const at::Tensor& coefficient) { return coefficient * slope; });
  return select(frame, x[0] < 0, scale(frame, decay, below), line);
}

PointwiseFunction elu_family(double below, double above, double inner) {
  return {
      [=](const Frame& f, const Series& x) { return elu(f, x, below, above, inner); },
      [=](const at::Tensor& x) {
        const at::Tensor decay = (x.clamp_max(0) * inner).exp_().mul_(below);
        return LocalSeries{LocalKind::kElu, {x, decay}, {}, inner, above};
      }};
}

void add_exponentials(RuleTable& table) {
  add_function_of_result<ExpBackward0>(
      table,
      [](const Frame& f, const Series& x, at::Tensor y) { return exp(f, x, std::move(y)); },
      [](const at::Tensor& y) { return solution({.linear = 1}, y); });
  add_function_of_result<Exp2Backward0>(
      table,
      [](const Frame& f, const Series& x, at::Tensor y) { return exp(f, scale(f, x, M_LN2), std::move(y)); },
      [](const at::Tensor& y) { return solution({.linear = M_LN2}, y); });
  add_function_of_result<Expm1Backward0>(
      table,
      [](const Frame& f, const Series& x, at::Tensor y) { return exp(f, x, y + 1); },
      [](const at::Tensor& y) { return solution({.constant = 1, .linear = 1}, y); });
  add_function<LogBackward0>(table, [](const Frame& f, const Series& x) { return log(f, x, x[0]); });
  add_function<Log1PBackward0>(table, [](const Frame& f, const Series& x) { return log(f, shift(x, 1), x[0]); });
  add_function<Log2Backward0>(
      table, [](const Frame& f, const Series& x) { return scale(f, log(f, x, x[0]), M_LOG2E); });
  add_function<Log10Backward0>(
      table, [](const Frame& f, const Series& x) { return scale(f, log(f, x, x[0]), M_LOG10E); });
  add_function_of_result<SqrtBackward0>(
      table, [](const Frame& f, const Series& x, at::Tensor y) { return sqrt(f, x, std::move(y)); });
  add_function_of_result<RsqrtBackward0>(table, [](const Frame& f, const Series& x, at::Tensor y) {
    return power(f, x.with_value(y.square().reciprocal()), -0.5, y);
  });
  add_function_of_result<ReciprocalBackward0>(
      table, [](const Frame& f, const Series& x, at::Tensor y) { return inverse(f, x.with_value(y.reciprocal())); });
}

void add_trigonometry(RuleTable& table) {
  add_function<SinBackward0>(
      table,
      [](const Frame& f, const Series& x) { return sine(f, x, x[0].sin(), x[0].cos(), -1); },
      [](const at::Tensor& x) { return solution({.companion = -1}, x.sin(), x.cos()); });
  add_function<CosBackward0>(
      table,
      [](const Frame& f, const Series& x) { return sine(f, x, x[0].cos(), -x[0].sin(), -1); },
      [](const at::Tensor& x) { return solution({.companion = -1}, x.cos(), -x.sin()); });
  add_function<SinhBackward0>(
      table,
      [](const Frame& f, const Series& x) { return sine(f, x, x[0].sinh(), x[0].cosh(), 1); },
      [](const at::Tensor& x) { return solution({.companion = 1}, x.sinh(), x.cosh()); });
  add_function<CoshBackward0>(
      table,
      [](const Frame& f, const Series& x) { return sine(f, x, x[0].cosh(), x[0].sinh(), 1); },
      [](const at::Tensor& x) { return solution({.companion = 1}, x.cosh(), x.sinh()); });
  add_function_of_result<TanBackward0>(
      table,
      [](const Frame& f, const Series& x, at::Tensor y) { return tan(f, x, std::move(y)); },
      [](const at::Tensor& y) { return solution({.constant = 1, .square = 1}, y); });
  add_function_of_result<TanhBackward0>(
      table,
      [](const Frame& f, const Series& x, at::Tensor y) { return tanh(f, x, std::move(y)); },
      [](const at::Tensor& y) { return solution({.constant = 1, .square = -1}, y); });
  add_function<AsinBackward0>(table, [](const Frame& f, const Series& x) {
    return integrate(f, x, inverse_sqrt(f.lowered(), one_plus_square(f, x, -1)), x[0]);
  });
  add_function<AcosBackward0>(table, [](const Frame& f, const Series& x) {
    return scale(f, integrate(f, x, inverse_sqrt(f.lowered(), one_plus_square(f, x, -1)), x[0]), -1);
  });
  add_function<AtanBackward0>(table, [](const Frame& f, const Series& x) {
    return integrate(f, x, inverse(f.lowered(), one_plus_square(f, x, 1)), x[0]);
  });
  add_function<AsinhBackward0>(table, [](const Frame& f, const Series& x) {
    return integrate(f, x, inverse_sqrt(f.lowered(), one_plus_square(f, x, 1)), x[0]);
  });
  add_function<AcoshBackward0>(table, [](const Frame& f, const Series& x) {
    const Series radicand = shift(square(f.lowered(), x), -1);
    return integrate(f, x, inverse_sqrt(f.lowered(), radicand), x[0]);
  });
  add_function<AtanhBackward0>(table, [](const Frame& f, const Series& x) {
    return integrate(f, x, inverse(f.lowered(), one_plus_square(f, x, -1)), x[0]);
  });
}

// Of derivatives that are on the tape themselves: grad * slope, for a function that gives the slope's series.
template <typename T, typename Slope>
void add_gradient(RuleTable& table, Slope slope) {
  add_rule<T>(table, product_degree, [slope](const Call& call, const T& node) {
    const Series grad = call.series(0, call.saved(node.grad_output_));
    return multiply(call.frame, grad, slope(call, node)).jet(call.frame);
  });
  table[typeid(T)].degree = [](torch::autograd::Node& node, c10::ArrayRef<int64_t> inputs) {
    return inputs[1] == 0 ? inputs[0] : nonlinear_degree(node, inputs);
  };
}

void add_gradients(RuleTable& table) {
  add_gradient<TanhBackwardBackward0>(table, [](const Call& call, const TanhBackwardBackward0& node) {
    const Frame& frame = call.frame;
    return shift(scale(frame, square(frame, call.series(1, call.saved(node.output_))), -1), 1);
  });
  add_gradient<SigmoidBackwardBackward0>(table, [](const Call& call, const SigmoidBackwardBackward0& node) {
    const Series y = call.series(1, call.saved(node.output_));
    return add(call.frame, y, square(call.frame, y), -1);
  });
  add_gradient<SoftplusBackwardBackward0>(table, [](const Call& call, const SoftplusBackwardBackward0& node) {
    const Series x = call.series(1, call.saved(node.self_));
    const Series scaled = scale(call.frame, x, node.beta.toDouble());
    const Series one(at::ones({}, x[0].options()));
    return select(call.frame, scaled[0] > node.threshold.toDouble(), one, sigmoid_of(call.frame, scaled));
  });
  add_rule<ThresholdBackwardBackward0>(
      table,
      [](torch::autograd::Node& /*node*/, c10::ArrayRef<int64_t> inputs) { return inputs[0]; },
      [](const Call& call, const ThresholdBackwardBackward0& node) -> Jet {
        if (call.inputs[0].is_zero()) {
          return {};
        }
        const at::Tensor passes = call.saved(node.self_) > node.threshold;
        return {call.inputs[0].rows * passes.to(call.frame.dtype), call.inputs[0].terms};
      });
}

void add_activations(RuleTable& table) {
  add_function_of_result<SigmoidBackward0>(
      table,
      [](const Frame& f, const Series& x, at::Tensor y) { return sigmoid(f, x, std::move(y)); },
      [](const at::Tensor& y) { return solution({.linear = 1, .square = -1}, y); });
  add_function<LogSigmoidBackward0>(
      table,
      [](const Frame& f, const Series& x) { return integrate(f, x, sigmoid_of(f.lowered(), scale(f, x, -1)), x[0]); },
      [](const at::Tensor& x) { return softplus_seeds(x, -1, INFINITY); });
  add_function<SiluBackward0>(
      table,
      [](const Frame& f, const Series& x) { return multiply(f, x, sigmoid_of(f, x)); },
      [](const at::Tensor& x) { return LocalSeries{LocalKind::kSilu, {x, at::sigmoid(x)}}; });
  add_function<MishBackward0>(
      table,
      [](const Frame& f, const Series& x) {
        const Series softplus = softplus_of(f, x, 1, INFINITY);
        return multiply(f, x, tanh(f, softplus, softplus[0].tanh()));
      },
      [](const at::Tensor& x) { return LocalSeries{LocalKind::kMish, {x, at::sigmoid(x)}}; });
  add_function<ErfBackward0>(
      table, [](const Frame& f, const Series& x) { return integrate(f, x, gauss(f.lowered(), x), x[0]); });
  add_function<ErfcBackward0>(table, [](const Frame& f, const Series& x) {
    return scale(f, integrate(f, x, gauss(f.lowered(), x), x[0]), -1);
  });
  add_family<SoftplusBackward0>(table, [](const SoftplusBackward0& node) {
    const double beta = node.beta.toDouble(), threshold = node.threshold.toDouble();
    return PointwiseFunction{
        [=](const Frame& f, const Series& x) { return softplus_of(f, x, beta, threshold); },
        [=](const at::Tensor& x) { return softplus_seeds(x, beta, threshold); }};
  });
  add_family<GeluBackward0>(table, [](const GeluBackward0& node) {
    return node.approximate == "tanh" ? PointwiseFunction{&gelu_tanh} : PointwiseFunction{&gelu_erf, &gelu_seeds};
  });
  add_family<EluBackward0>(table, [](const EluBackward0& node) {
    const double outer = node.scale.toDouble();
    return elu_family(node.alpha.toDouble() * outer, outer, node.input_scale.toDouble());
  });
  add_family<CeluBackward0>(table, [](const CeluBackward0& node) {
    const double alpha = node.alpha.toDouble();
    return elu_family(alpha, 1, 1 / alpha);
  });
  add_piecewise_linear<ReluBackward0>(table);
  add_piecewise_linear<LeakyReluBackward0>(table);
  add_piecewise_linear<HardtanhBackward0>(table);
  add_piecewise_linear<HardsigmoidBackward0>(table);
  add_piecewise_linear<ThresholdBackward0>(table);
  add_piecewise_linear<AbsBackward0>(table);
  add_piecewise_linear<ClampBackward1>(table);
  add_piecewise_linear<ClampMinBackward0>(table);
  add_piecewise_linear<ClampMaxBackward0>(table);
  add_piecewise_linear<Deg2RadBackward0>(table);
  add_piecewise_linear<FmodBackward0>(table);
  add_piecewise_linear<FracBackward0>(table);
  add_piecewise_linear<HardshrinkBackward0>(table);
  add_piecewise_linear<NanToNumBackward0>(table);
  add_piecewise_linear<Rad2DegBackward0>(table);
  add_piecewise_linear<RemainderBackward0>(table);
  add_piecewise_linear<SoftshrinkBackward0>(table);
  add_steps<
      AngleBackward0,
      CeilBackward0,
      DivBackward2,
      FloorBackward0,
      RoundBackward0,
      RoundBackward1,
      SgnBackward0,
      SignBackward0,
      TruncBackward0>(table);
  add_rule<PreluKernelBackward0>(table, product_degree, [](const Call& call, const PreluKernelBackward0& node) {
    if (!call.inputs[1].is_zero()) {
      throw Unsupported("a prelu whose weight depends on wrt");
    }
    // The weight may have a gradient of its own.
    const at::Tensor weight = call.saved(node.weight_);
    const at::Tensor slope = at::where(call.saved(node.self_) > 0, at::ones({}, weight.options()), weight);
    return Jet{call.inputs[0].rows * slope, call.inputs[0].terms};
  });
}

} // namespace

void add_pointwise_rules(RuleTable& table) {
  add_exponentials(table);
  add_trigonometry(table);
  add_activations(table);
  add_gradients(table);
  for (auto& [type, rule] : table) {
    rule.samples = &pointwise_samples;
  }
}

} // namespace highgrad::taylor
