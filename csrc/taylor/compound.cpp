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

#include "taylor/affine.h"
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

// Operations that are affine in their first input, the only one that may depend on wrt.
template <typename... T>
void add_affine_in_first(RuleTable& table) {
  const auto degree = [](Node& node, c10::ArrayRef<int64_t> inputs) {
    return linear_degree(node, inputs.slice(1)) == 0 ? inputs[0] : nonlinear_degree(node, inputs);
  };
  const auto map = [](const Call& c, const Node& node) {
    for (const Jet& input : c.inputs.slice(1)) {
      if (!input.is_zero()) {
        throw Unsupported(node.name() + " of places or weights that depend on wrt");
      }
    }
    return transposed_vjp(c);
  };
  (add_rule_of_many<T>(table, degree, map), ...);
}

// Affine but for products.
template <typename T>
void add_scatter(RuleTable& table) {
  const auto degree = [](Node& node, c10::ArrayRef<int64_t> inputs) {
    return static_cast<T&>(node).reduce == "prod" ? nonlinear_degree(node, inputs) : linear_degree(node, inputs);
  };
  add_rule_of_many<T>(table, degree, [](const Call& c, const T& node) {
    if (node.reduce == "prod") {
      throw Unsupported(node.name() + " of products");
    }
    return transposed_vjp(c);
  });
}

} // namespace

void add_compound_rules(RuleTable& table) {
  add_affine_in_first<EmbeddingBagBackward0, GridSampler2DBackward0, GridSampler3DBackward0>(table);
  add_scatter<IndexReduceBackward0>(table);
  add_scatter<ScatterReduceBackward0>(table);
  add_rule<Atan2Backward0>(table, nonlinear_degree, &arc_tangent);
  add_rule<HypotBackward0>(table, nonlinear_degree, [](const Call& c, const HypotBackward0& node) {
    // A constant operand is not saved, nor needed.
    if (c.inputs[0].is_zero() || c.inputs[1].is_zero()) {
      const size_t k = c.inputs[0].is_zero() ? 1 : 0;
      const at::Tensor value = c.saved(k == 0 ? node.self_ : node.other_);
      return sqrt(c.frame, square(c.frame, c.series(k, value)), c.saved(node.result_)).jet(c.frame);
    }
    const Series a = square(c.frame, c.series(0, c.saved(node.self_)));
    const Series b = square(c.frame, c.series(1, c.saved(node.other_)));
    return sqrt(c.frame, add(c.frame, a, b), c.saved(node.result_)).jet(c.frame);
  });
  add_sums_of_products(table);
  add_gates(table);
}

} // namespace highgrad::taylor
