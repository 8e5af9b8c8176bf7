// Rules of losses: a function of each element of an input and a target, then their mean, their sum or neither.

#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/where.h>
#include <c10/util/accumulate.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <utility>

#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;
using torch::autograd::Node;

// What a loss makes of the series of its elements.
Jet reduce(const Frame& frame, Jet jet, at::IntArrayRef shape, int64_t reduction) {
  if (reduction == at::Reduction::None || jet.is_zero()) {
    return jet;
  }
  jet = multiplied_out(frame, jet);
  c10::DimVector whole{jet.rows.size(0)};
  whole.append(shape.begin(), shape.end());
  const int64_t numel = c10::multiply_integers(shape);
  const at::Tensor rows = align(jet.rows, static_cast<int64_t>(shape.size())).expand(whole).reshape({whole[0], numel});
  return {reduction == at::Reduction::Mean ? rows.mean(1) : rows.sum(1), jet.terms};
}

// torch.nn.functional expands operands that broadcast before the loss; torch's own operators take them as they are.
void check_same_shape(const at::Tensor& self, const at::Tensor& target) {
  if (self.sizes() != target.sizes()) {
    throw Unsupported("a loss of a prediction and a target of different shapes");
  }
}

// An input less its target. Both have one shape.
Series difference(const Call& c, const at::Tensor& self, const at::Tensor& target) {
  check_same_shape(self, target);
  return add(c.frame, c.series(0, self), c.series(1, target), -1);
}

// A square for |d| below `width`, times `curvature` / 2; beyond, a line of slope `slope`.
template <typename T>
Jet rounded(const Call& c, const T& node, double width, double curvature, double slope) {
  const Series d = difference(c, c.saved(node.self_), c.saved(node.target_));
  const at::Tensor sign = d[0].sign() * slope;
  const Series line = d.map([&](const at::Tensor& k) { return k * sign; });
  const Series parabola = scale(c.frame, square(c.frame, d), curvature / 2);
  return reduce(
      c.frame, select(c.frame, d[0].abs() < width, parabola, line).jet(c.frame), d[0].sizes(), node.reduction);
}

// log(1 + exp(x)).
Series softplus(const Frame& frame, const Series& x) {
  const Series slope = sigmoid(frame.lowered(), x, at::sigmoid(x[0]));
  return integrate(frame, x, slope, at::softplus(x[0], 1, /*threshold=*/40));
}

Series weighted(const Series& x, const at::Tensor& weight) {
  return weight.defined() ? x.map([&](const at::Tensor& k) { return k * weight; }) : x;
}

// -w (t log p + (1 - t) log(1 - p)).
Jet cross_entropy(const Call& c, const BinaryCrossEntropyBackward0& node) {
  const Series p = c.series(0, c.saved(node.self_));
  const Series t = c.series(1, c.saved(node.target_));
  check_same_shape(p[0], t[0]);
  // torch bounds the slopes, and the logarithms from below.
  if ((p[0] * (1 - p[0]) < 1e-12).any().item<bool>()) {
    throw Unsupported("a binary cross-entropy of a probability of 0 or 1");
  }
  const Series rest = shift(scale(c.frame, p, -1), 1);
  const Series hit = log(c.frame, p, p[0].log());
  const Series miss = log(c.frame, rest, rest[0].log());
  const Series sum = add(c.frame, miss, multiply(c.frame, t, add(c.frame, hit, miss, -1)));
  const Series loss = weighted(scale(c.frame, sum, -1), c.saved(node.weight_));
  return reduce(c.frame, loss.jet(c.frame), p[0].sizes(), node.reduction);
}

// w ((1 - t) x + (1 + (v - 1) t) softplus(-x)), where v is the weight of positive targets.
Jet cross_entropy_of_logits(const Call& c, const BinaryCrossEntropyWithLogitsBackward0& node) {
  const Series x = c.series(0, c.saved(node.self_));
  const Series t = c.series(1, c.saved(node.target_));
  check_same_shape(x[0], t[0]);
  const Series negative = shift(scale(c.frame, t, -1), 1);
  Series curved = softplus(c.frame, scale(c.frame, x, -1));
  const at::Tensor positive = c.saved(node.pos_weight_);
  if (positive.defined()) {
    curved = multiply(c.frame, shift(weighted(t, positive - 1), 1), curved);
  }
  const Series sum = add(c.frame, multiply(c.frame, negative, x), curved);
  const Series loss = weighted(sum, c.saved(node.weight_));
  return reduce(c.frame, loss.jet(c.frame), x[0].sizes(), node.reduction);
}

int64_t squared_degree(Node& node, c10::ArrayRef<int64_t> inputs) {
  return std::min(2 * linear_degree(node, inputs), kUnbounded);
}

} // namespace

void add_loss_rules(RuleTable& table) {
  add_rule<MseLossBackward0>(table, squared_degree, [](const Call& c, const MseLossBackward0& node) {
    const Series d = difference(c, c.saved(node.self_), c.saved(node.target_));
    return reduce(c.frame, square(c.frame, d).jet(c.frame), d[0].sizes(), node.reduction);
  });
  add_rule<HuberLossBackward0>(table, squared_degree, [](const Call& c, const HuberLossBackward0& node) {
    return rounded(c, node, node.delta, 1, node.delta);
  });
  add_rule<SmoothL1LossBackward0>(table, squared_degree, [](const Call& c, const SmoothL1LossBackward0& node) {
    return rounded(c, node, node.beta, node.beta > 0 ? 1 / node.beta : 0, 1);
  });
  add_rule<BinaryCrossEntropyBackward0>(table, nonlinear_degree, &cross_entropy);
  add_rule<BinaryCrossEntropyWithLogitsBackward0>(table, nonlinear_degree, &cross_entropy_of_logits);
  add_rule<SoftMarginLossBackward0>(table, nonlinear_degree, [](const Call& c, const SoftMarginLossBackward0& node) {
    const at::Tensor sign = -c.saved(node.target_);
    const Series x = c.series(0, c.saved(node.self_)).map([&](const at::Tensor& k) { return k * sign; });
    return reduce(c.frame, softplus(c.frame, x).jet(c.frame), x[0].sizes(), node.reduction);
  });
}

} // namespace highgrad::taylor
