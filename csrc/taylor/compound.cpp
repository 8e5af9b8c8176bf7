// Rules of operations on several tensors that are made of others'.

#include <ATen/TensorOperators.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/hardsigmoid.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/polygamma.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <utility>

#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;
using torch::autograd::Node;

// The angle's differential is (x dy - y dx) / (x^2 + y^2).
Jet arc_tangent(const Call& c, const Atan2Backward0& node) {
  const Frame lowered = c.frame.lowered();
  const Series y = c.series(0, c.saved(node.self_));
  const Series x = c.series(1, c.saved(node.other_));
  const Series radius = add(lowered, square(lowered, x), square(lowered, y));
  const Series by_y = integrate(c.frame, y, divide(lowered, x, radius), y[0] + x[0]);
  const Series by_x = integrate(c.frame, x, divide(lowered, y, radius), y[0] + x[0]);
  return add(c.frame, by_y, by_x, -1).jet(c.frame);
}

// log(exp a + exp b) = b + softplus(a - b).
Jet log_add_exp(const Call& c, const LogaddexpBackward0& node) {
  const Series b = c.series(1, c.saved(node.other_));
  const Series difference = add(c.frame, c.series(0, c.saved(node.self_)), b, -1);
  const Series slope = sigmoid(c.frame.lowered(), difference, at::sigmoid(difference[0]));
  return add(c.frame, b, integrate(c.frame, difference, slope, difference[0])).jet(c.frame);
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

int64_t quotient_and_sum_degree(Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
  return inputs[2] == 0 ? std::max(inputs[0], inputs[1]) : kUnbounded;
}

void add_sums_of_products(RuleTable& table) {
  // Values that nothing asks for are not saved.
  const auto series = [](const Call& c, size_t k, const torch::autograd::SavedVariable& saved) {
    const at::Tensor value = c.saved(saved);
    return c.series(k, value.defined() ? value : at::ones({}, c.node.input_metadata(0).options().dtype(c.frame.dtype)));
  };
  const auto product_and_sum_degree = [](Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
    return std::max(inputs[0], std::min(inputs[1] + inputs[2], kUnbounded));
  };
  add_rule<AddcmulBackward0>(table, product_and_sum_degree, [series](const Call& c, const AddcmulBackward0& node) {
    if (c.inputs[1].is_zero() && c.inputs[2].is_zero()) {
      return c.inputs[0];
    }
    const Series product = multiply(c.frame, series(c, 1, node.tensor1_), series(c, 2, node.tensor2_));
    return add(c.frame, c.inputs[0], scaled(product.jet(c.frame), node.value.toDouble()));
  });
  const auto interpolation_degree = [](Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
    return std::min(std::max(inputs[0], inputs[1]) + inputs[2], kUnbounded);
  };
  add_rule<LerpBackward1>(table, interpolation_degree, [series](const Call& c, const LerpBackward1& node) {
    const Series difference = add(c.frame, series(c, 1, node.end_), series(c, 0, node.self_), -1);
    const Series product = multiply(c.frame, series(c, 2, node.weight_), difference);
    return add(c.frame, c.inputs[0], product.jet(c.frame));
  });
  add_rule<AddcdivBackward0>(table, quotient_and_sum_degree, [](const Call& c, const AddcdivBackward0& node) -> Jet {
    if (c.inputs[1].is_zero() && c.inputs[2].is_zero()) {
      return c.inputs[0];
    }
    const at::Tensor divisor = c.saved(node.tensor2_);
    Jet quotient;
    if (c.inputs[2].is_zero()) {
      const auto dim = static_cast<int64_t>(c.output_shape().size());
      quotient = {align(c.inputs[1].rows, dim) / divisor, c.inputs[1].terms};
    } else {
      quotient = divide(c.frame, c.series(1, c.saved(node.tensor1_)), c.series(2, divisor)).jet(c.frame);
    }
    return add(c.frame, c.inputs[0], scaled(quotient, node.value.toDouble()));
  });
}

void add_gates(RuleTable& table) {
  add_rule<GluBackward0>(table, nonlinear_degree, [](const Call& c, const GluBackward0& node) {
    const at::Tensor self = c.saved(node.self_);
    const int64_t dim = at::maybe_wrap_dim(node.dim, self.dim()) - self.dim();
    const int64_t half = self.size(dim) / 2;
    const Series x = c.series(0, self);
    const auto part = [&](int64_t first) {
      return x.map([&](const at::Tensor& k) { return k.narrow(dim, first, half); });
    };
    const Series gate = part(half);
    return multiply(c.frame, part(0), sigmoid(c.frame, gate, at::sigmoid(gate[0]))).jet(c.frame);
  });
  // x min(max(x + 3, 0), 6) / 6
  add_rule<HardswishBackward0>(table, nonlinear_degree, [](const Call& c, const HardswishBackward0& node) {
    const Series x = c.series(0, c.saved(node.self_));
    const at::Tensor slope = (x[0].abs() < 3).to(c.frame.dtype) / 6;
    const Series gate = x.map([&](const at::Tensor& k) { return k * slope; });
    return multiply(c.frame, x, gate.with_value(at::hardsigmoid(x[0]))).jet(c.frame);
  });
}

// With running statistics, which make it affine.
std::vector<Jet> batch_norm(const Call& c, const NativeBatchNormBackward0& node) {
  if (node.training || !c.inputs[1].is_zero() || !c.inputs[2].is_zero()) {
    throw Unsupported("a batch_norm in training, or whose weight or bias depends on wrt");
  }
  at::Tensor slope = (c.saved(node.running_var_) + node.eps).rsqrt();
  const at::Tensor weight = c.saved(node.weight_);
  slope = weight.defined() ? slope * weight : slope;
  // Channels are dimension 1 of the input.
  c10::DimVector shape(c.output_shape().size() - 1, 1);
  shape[0] = slope.numel();
  return {{c.inputs[0].rows * slope.reshape(shape), c.inputs[0].terms}, {}, {}};
}

// In evaluation a product of input and weight; in training, of statistics of the input too.
int64_t batch_norm_degree(torch::autograd::Node& node, c10::ArrayRef<int64_t> inputs) {
  const bool is_training = static_cast<NativeBatchNormBackward0&>(node).training;
  return is_training ? nonlinear_degree(node, inputs) : product_degree(node, inputs);
}

} // namespace

void add_compound_rules(RuleTable& table) {
  add_rule<Atan2Backward0>(table, nonlinear_degree, &arc_tangent);
  add_rule<HypotBackward0>(table, nonlinear_degree, [](const Call& c, const HypotBackward0& node) {
    const Series a = square(c.frame, c.series(0, c.saved(node.self_)));
    const Series b = square(c.frame, c.series(1, c.saved(node.other_)));
    return sqrt(c.frame, add(c.frame, a, b), c.saved(node.result_)).jet(c.frame);
  });
  add_rule<LogaddexpBackward0>(table, nonlinear_degree, &log_add_exp);
  add_rule<LgammaBackward0>(table, nonlinear_degree, [](const Call& c, const LgammaBackward0& node) {
    return polygamma_of(c.frame, c.series(0, c.saved(node.self_)), -1).jet(c.frame);
  });
  add_rule<DigammaBackward0>(table, nonlinear_degree, [](const Call& c, const DigammaBackward0& node) {
    return polygamma_of(c.frame, c.series(0, c.saved(node.self_)), 0).jet(c.frame);
  });
  add_rule_of_many<NativeBatchNormBackward0>(table, batch_norm_degree, &batch_norm);
  add_sums_of_products(table);
  add_gates(table);
}

} // namespace highgrad::taylor
