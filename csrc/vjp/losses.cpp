// Rules of losses: elementwise derivatives of prediction and target, summed, averaged or neither.

#include <ATen/Functions.h>
#include <ATen/core/Reduction.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <utility>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// The class of each sample, [N, classes] or [classes]; or of each place of an image, [N, classes, H, W].
template <typename T>
BatchedVjp negative_log_likelihood(const Call& call, const T& node) {
  const Shape shape = *call.given[0];
  const int64_t classes = shape.size() == 1 ? 0 : 1; // their dimension
  const at::Tensor target = call.saved(node.target_);
  const int64_t ignored = node.ignore_index.guard_int(__FILE__, __LINE__);
  const at::Tensor is_ignored = target.eq(ignored);
  const at::Tensor index = target.masked_fill(is_ignored, 0);
  const at::Tensor weight = call.saved(node.weight_);
  const auto options = node.input_metadata(0).options();
  at::Tensor factor = weight.defined() ? -weight.index_select(0, index.reshape({-1})).view_as(index)
                                       : at::full(index.sizes(), -1, options);
  if (node.reduction == at::Reduction::Mean) {
    factor = factor / call.saved(node.total_weight_);
  }
  // Last: where all are ignored, the total weight is zero.
  factor = factor.masked_fill(is_ignored, 0);
  return [shape, classes, index = index.unsqueeze(classes), factor = factor.unsqueeze(classes)](
             Cotangents& taken, Cotangents& given) {
    if (!taken[0].defined()) {
      return;
    }
    const at::Tensor& grad = taken[0];
    // One cotangent a sample, or one for all.
    const Shape kept = grad.dim() > 1 ? index.sizes().vec() : Shape(shape.size(), 1);
    const at::Tensor chosen = at::mul(grad.reshape(Call::batch_of(grad, kept)), factor);
    given[0] =
        at::zeros(Call::batch_of(grad, shape), grad.options()).scatter_(classes + 1, index.expand_as(chosen), chosen);
  };
}

// Of a loss whose elementwise derivatives are given, undefined where nobody wants them.
BatchedVjp elementwise(int64_t reduction, at::Tensor by_self, at::Tensor by_target) {
  const at::Tensor& some = by_self.defined() ? by_self : by_target;
  const double share =
      reduction == at::Reduction::Mean ? 1 / static_cast<double>(std::max<int64_t>(some.numel(), 1)) : 1;
  const Shape kept = reduction == at::Reduction::None ? some.sizes().vec() : Shape(some.dim(), 1);
  std::vector<at::Tensor> factors = {std::move(by_self), std::move(by_target)};
  for (at::Tensor& factor : factors) {
    factor = factor.defined() && share != 1 ? factor * share : factor;
  }
  return [factors, kept](Cotangents& taken, Cotangents& given) {
    const at::Tensor grad = taken[0].reshape(Call::batch_of(taken[0], kept));
    for (size_t k = 0; k < given.size(); ++k) {
      given[k] = factors[k].defined() ? at::mul(grad, factors[k]) : at::Tensor();
    }
  };
}

// `derivative` gives that by its first argument.
template <typename T, typename Derivative>
void add_symmetric_loss(RuleTable& table, Derivative derivative) {
  add_rule<T>(table, [derivative](const Call& call, const T& node) -> BatchedVjp {
    const at::Tensor self = call.saved(node.self_), target = call.saved(node.target_);
    if (self.sizes() != target.sizes()) {
      return nullptr;
    }
    return elementwise(
        node.reduction,
        call.wants(0) ? derivative(node, self, target) : at::Tensor(),
        call.wants(1) ? derivative(node, target, self) : at::Tensor());
  });
}

// Of losses by the prediction alone.
template <typename T, typename Derivative>
void add_loss(RuleTable& table, Derivative derivative) {
  add_rule<T>(table, [derivative](const Call& call, const T& node) -> BatchedVjp {
    const at::Tensor self = call.saved(node.self_), target = call.saved(node.target_);
    if (self.sizes() != target.sizes() || !call.wants(0) || (call.given.size() > 1 && call.wants(1))) {
      return nullptr;
    }
    return elementwise(node.reduction, derivative(call, node, self, target), {});
  });
}

// Of a loss of samples by [samples, classes] or [classes], of which `backward` is the Node's own: what that makes of
// ones, and the cotangents of the loss of each sample, or of one for all.
template <typename T, typename Backward>
void add_loss_of_samples(RuleTable& table, Backward backward) {
  add_rule<T>(table, [backward](const Call& call, const T& node) {
    Shape kept(call.given[0]->size(), 1);
    if (!call.taken[0].empty()) {
      kept[0] = call.taken[0][0];
    }
    return by_factor(kept, backward(call, node, at::ones(call.taken[0], node.input_metadata(0).options())));
  });
}

const std::vector<int64_t>& lengths_of(const Call& /*call*/, const std::vector<int64_t>& lengths) {
  return lengths;
}

at::Tensor lengths_of(const Call& call, const torch::autograd::SavedVariable& lengths) {
  return call.saved(lengths);
}

// Of log-probabilities [T, samples, classes]. Lengths are numbers, or tensors of them.
template <typename T, typename Lengths>
BatchedVjp connectionist_temporal_classification(
    const Call& call,
    const T& node,
    const Lengths& input_lengths,
    const Lengths& target_lengths) {
  const at::Tensor log_probs = call.saved(node.log_probs_);
  if (log_probs.dim() != 3 || call.taken[0].size() != 1) {
    return nullptr;
  }
  return by_factor(
      {1, call.taken[0][0], 1},
      at::_ctc_loss_backward(
          at::ones(call.taken[0], node.input_metadata(0).options()),
          log_probs,
          call.saved(node.targets_),
          lengths_of(call, input_lengths),
          lengths_of(call, target_lengths),
          call.saved(node.result0_),
          call.saved(node.result1_),
          node.blank,
          node.zero_infinity));
}

// By a kernel that gives the derivatives with the losses, [N] and [T, N, classes].
template <typename T>
BatchedVjp ctc_by_kernel(const Call& call, const T& node) {
  const at::Tensor loss = call.saved(node.result0_), derivatives = call.saved(node.result1_);
  if (loss.dim() != 1 || derivatives.dim() != 3) {
    return nullptr;
  }
  const at::Tensor is_impossible = loss.eq(0).view({1, -1, 1});
  return by_factor({1, loss.size(0), 1}, node.zero_infinity ? derivatives.masked_fill(is_impossible, 0) : derivatives);
}

at::Tensor weighted(const Call& call, const torch::autograd::SavedVariable& variable, const at::Tensor& derivative) {
  const at::Tensor weight = call.saved(variable);
  return weight.defined() ? derivative * weight : derivative;
}

} // namespace

void add_loss_rules(RuleTable& table) {
  using at::Tensor;
  add_rule<NllLossBackward0>(table, &negative_log_likelihood<NllLossBackward0>);
  add_rule<NllLoss2DBackward0>(table, &negative_log_likelihood<NllLoss2DBackward0>);
  add_symmetric_loss<MseLossBackward0>(
      table, [](const MseLossBackward0& /*node*/, const Tensor& x, const Tensor& y) { return (x - y) * 2; });
  add_symmetric_loss<SmoothL1LossBackward0>(
      table, [](const SmoothL1LossBackward0& node, const Tensor& x, const Tensor& y) {
        return at::smooth_l1_loss_backward(at::ones_like(x), x, y, at::Reduction::None, node.beta);
      });
  add_symmetric_loss<HuberLossBackward0>(table, [](const HuberLossBackward0& node, const Tensor& x, const Tensor& y) {
    return at::huber_loss_backward(at::ones_like(x), x, y, at::Reduction::None, node.delta);
  });
  add_loss<BinaryCrossEntropyBackward0>(
      table, [](const Call& call, const BinaryCrossEntropyBackward0& node, const Tensor& x, const Tensor& y) {
        return at::binary_cross_entropy_backward(at::ones_like(x), x, y, call.saved(node.weight_), at::Reduction::None);
      });
  add_loss<BinaryCrossEntropyWithLogitsBackward0>(
      table, [](const Call& call, const BinaryCrossEntropyWithLogitsBackward0& node, const Tensor& x, const Tensor& y) {
        const Tensor of_ones = call.saved(node.pos_weight_);
        const Tensor hits = of_ones.defined() ? of_ones * y : y;
        const Tensor total = of_ones.defined() ? hits + 1 - y : hits;
        return weighted(call, node.weight_, (of_ones.defined() ? total * x.sigmoid() : x.sigmoid()) - hits);
      });
  add_rule<CtcLossBackward0>(table, [](const Call& call, const CtcLossBackward0& node) {
    return connectionist_temporal_classification(call, node, node.input_lengths, node.target_lengths);
  });
  add_rule<CtcLossBackward1>(table, [](const Call& call, const CtcLossBackward1& node) {
    return connectionist_temporal_classification(call, node, node.input_lengths_, node.target_lengths_);
  });
  add_rule<CudnnCtcLossBackward0>(table, &ctc_by_kernel<CudnnCtcLossBackward0>);
  add_rule<CudnnCtcLossBackward1>(table, &ctc_by_kernel<CudnnCtcLossBackward1>);
  add_loss_of_samples<MultiMarginLossBackward0>(
      table, [](const Call& call, const MultiMarginLossBackward0& node, const Tensor& one) {
        return at::multi_margin_loss_backward(
            one,
            call.saved(node.self_),
            call.saved(node.target_),
            node.p,
            node.margin,
            call.saved(node.weight_),
            node.reduction);
      });
  add_loss_of_samples<MultilabelMarginLossBackward0>(
      table, [](const Call& call, const MultilabelMarginLossBackward0& node, const Tensor& one) {
        return at::multilabel_margin_loss_backward(
            one, call.saved(node.self_), call.saved(node.target_), node.reduction, call.saved(node.is_target_));
      });
  add_loss<SoftMarginLossBackward0>(
      table, [](const Call& /*call*/, const SoftMarginLossBackward0& /*node*/, const Tensor& x, const Tensor& y) {
        return (y * x).neg().sigmoid() * -y;
      });
}

} // namespace highgrad::vjp
