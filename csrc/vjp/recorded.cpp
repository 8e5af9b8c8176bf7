// Rules of backwards that are recorded: they stand on the tapes of forward mode, and on those of Hessians.

#include <ATen/Functions.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <cmath>
#include <limits>
#include <optional>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// Elementwise functions of a cotangent and of a point, linear in the first: their derivatives. Undefined: zero.
BatchedVjp by_factors(const Call& call, const at::Tensor& by_cotangent, const at::Tensor& by_point) {
  return [=, wants_cotangent = call.wants(0), wants_point = call.wants(1)](Cotangents& taken, Cotangents& given) {
    if (wants_point) {
      given[1] = by_point.defined() ? at::mul(taken[0], by_point) : at::zeros_like(taken[0]);
    }
    if (wants_cotangent) {
      given[0] = times(std::move(taken[0]), by_cotangent);
    }
  };
}

void add_recorded_activations(RuleTable& table) {
  add_rule<TanhBackwardBackward0>(table, [](const Call& call, const TanhBackwardBackward0& node) -> BatchedVjp {
    const at::Tensor y = call.saved(node.output_);
    const at::Tensor by_output = call.wants(1) ? y * call.saved(node.grad_output_) * -2 : at::Tensor();
    return [y, by_output, by_grad = call.wants(0)](Cotangents& taken, Cotangents& given) {
      given[0] = by_grad ? at::tanh_backward(taken[0], y) : at::Tensor();
      given[1] = by_output.defined() ? at::mul(taken[0], by_output) : at::Tensor();
    };
  });
  add_rule<SigmoidBackwardBackward0>(table, [](const Call& call, const SigmoidBackwardBackward0& node) -> BatchedVjp {
    const at::Tensor y = call.saved(node.output_);
    const at::Tensor by_output = call.wants(1) ? call.saved(node.grad_output_) * (y * -2 + 1) : at::Tensor();
    return [y, by_output, by_grad = call.wants(0)](Cotangents& taken, Cotangents& given) {
      given[0] = by_grad ? at::sigmoid_backward(taken[0], y) : at::Tensor();
      given[1] = by_output.defined() ? at::mul(taken[0], by_output) : at::Tensor();
    };
  });
  add_rule<ThresholdBackwardBackward0>(
      table, [](const Call& call, const ThresholdBackwardBackward0& node) -> BatchedVjp {
        const at::Tensor x = call.saved(node.self_);
        return [x, threshold = node.threshold, by_grad = call.wants(0), by_self = call.wants(1)](
                   Cotangents& taken, Cotangents& given) {
          given[0] = by_grad ? at::threshold_backward(taken[0], x, threshold) : at::Tensor();
          given[1] = by_self ? at::zeros_like(taken[0]) : at::Tensor();
        };
      });
  add_rule<LeakyReluBackwardBackward0>(
      table, [](const Call& call, const LeakyReluBackwardBackward0& node) -> BatchedVjp {
        const at::Tensor x = call.saved(node.self_);
        const at::Tensor slope = at::leaky_relu_backward(at::ones_like(x), x, node.negative_slope, /*is_result=*/false);
        return by_factors(call, slope, at::Tensor());
      });
  add_rule<GeluBackwardBackward0>(table, [](const Call& call, const GeluBackwardBackward0& node) -> BatchedVjp {
    const at::Tensor x = call.saved(node.self_);
    if (call.wants(1) && node.approximate != "none") {
      return nullptr;
    }
    // Of x P(X < x): the density, twice, and its derivative.
    const at::Tensor square = x * x;
    const at::Tensor curvature =
        call.wants(1) ? (square / -2).exp() * ((2 - square) * (M_SQRT1_2 * M_2_SQRTPI / 2)) : at::Tensor();
    return by_factors(
        call,
        at::gelu_backward(at::ones_like(x), x, node.approximate),
        call.wants(1) ? curvature * call.saved(node.grad_output_) : at::Tensor());
  });
  add_rule<SoftplusBackwardBackward0>(table, [](const Call& call, const SoftplusBackwardBackward0& node) -> BatchedVjp {
    const at::Tensor x = call.saved(node.self_);
    const at::Tensor slope = at::softplus_backward(at::ones_like(x), x, node.beta, node.threshold);
    const at::Tensor curvature = call.wants(1) ? slope * (1 - slope) * node.beta : at::Tensor();
    return by_factors(call, slope, call.wants(1) ? curvature * call.saved(node.grad_output_) : at::Tensor());
  });
}

// What was put into zeros is read.
void add_recorded_parts(RuleTable& table) {
  add_unary<SelectBackwardBackward0>(table, [](const Call& call, const SelectBackwardBackward0& node) {
    return [dim = batched_dim(node.dim, call.taken[0]), index = node.index.guard_int(__FILE__, __LINE__)](
               const at::Tensor& grad) { return grad.select(dim, index); };
  });
  add_unary<SliceBackwardBackward0>(table, [](const Call& call, const SliceBackwardBackward0& node) {
    return [dim = batched_dim(node.dim, call.taken[0]),
            start = node.start.guard_int(__FILE__, __LINE__),
            end = node.end.guard_int(__FILE__, __LINE__),
            step = node.step.guard_int(__FILE__, __LINE__)](const at::Tensor& grad) {
      return grad.slice(dim, start, end, step);
    };
  });
  add_unary<DiagonalBackwardBackward0>(table, [](const Call& call, const DiagonalBackwardBackward0& node) {
    const Shape& shape = call.taken[0];
    return [offset = node.offset, a = batched_dim(node.dim1, shape), b = batched_dim(node.dim2, shape)](
               const at::Tensor& grad) { return grad.diagonal(offset, a, b); };
  });
  add_unary<UnfoldBackwardBackward0>(table, [](const Call& call, const UnfoldBackwardBackward0& node) {
    return [dim = batched_dim(node.dim, call.taken[0]), size = node.size, step = node.step](const at::Tensor& grad) {
      return grad.unfold(dim, size, step);
    };
  });
}

// Of g with y = softmax(x): (g - sum(g y)) y, and of log y: g - y sum(g).
void add_recorded_softmax(RuleTable& table) {
  add_rule<SoftmaxBackwardDataBackward0>(
      table, [](const Call& call, const SoftmaxBackwardDataBackward0& node) -> BatchedVjp {
        const at::Tensor y = call.saved(node.output_);
        const at::Tensor g = call.wants(1) ? call.saved(node.grad_output_) : at::Tensor();
        if (y.dim() == 0) {
          return nullptr;
        }
        const int64_t dim = batched_dim(node.dim, call.taken[0]);
        const at::Tensor centered = call.wants(1) ? g - (g * y).sum(dim - 1, true) : at::Tensor();
        return [=, by_grad = call.wants(0), by_output = call.wants(1)](Cotangents& taken, Cotangents& given) {
          const at::Tensor weighted = taken[0] * y;
          const at::Tensor sum = weighted.sum(dim, true);
          given[0] = by_grad ? weighted - y * sum : at::Tensor();
          given[1] = by_output ? taken[0] * centered - g * sum : at::Tensor();
        };
      });
  add_rule<LogSoftmaxBackwardDataBackward0>(
      table, [](const Call& call, const LogSoftmaxBackwardDataBackward0& node) -> BatchedVjp {
        const at::Tensor y = call.saved(node.output_).exp();
        if (y.dim() == 0) {
          return nullptr;
        }
        const int64_t dim = batched_dim(node.dim, call.taken[0]);
        const at::Tensor by_log = call.wants(1) ? -y * call.saved(node.grad_output_).sum(dim - 1, true) : at::Tensor();
        return [=, by_grad = call.wants(0), by_output = call.wants(1)](Cotangents& taken, Cotangents& given) {
          given[0] = by_grad ? taken[0] - (taken[0] * y).sum(dim, true) : at::Tensor();
          given[1] = by_output ? taken[0] * by_log : at::Tensor();
        };
      });
}

} // namespace

void add_recorded_rules(RuleTable& table) {
  add_recorded_activations(table);
  add_recorded_parts(table);
  add_recorded_softmax(table);
}

} // namespace highgrad::vjp
