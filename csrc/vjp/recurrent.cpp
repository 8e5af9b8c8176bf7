// Rules of recurrent layers whose kernels torch has no batching rule for.

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>
#include <vector>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

constexpr int64_t kLstm = 2; // of MkldnnRnnLayerBackward0::mode

// What the backward of one step of an LSTM is made of; N samples, hidden size H.
struct LstmStep {
  at::Tensor cell_by_hidden; // dc/dh = o (1 - tanh(c)^2): [N, H]
  at::Tensor gates_by_cell; // those of the input, the forget and the cell gate, before their nonlinearity: [N, 3, H]
  at::Tensor output_by_hidden; // likewise that of the output gate: [N, H]
  at::Tensor forget; // [N, H]
};

// One layer in one direction, its gates computed again from what is saved: torch's own backward is not differentiable
// again; this is.
BatchedVjp lstm_layer(const Call& call, const MkldnnRnnLayerBackward0& node) {
  if (node.mode != kLstm || !node.batch_sizes.empty()) {
    return nullptr;
  }
  const bool is_reversed = node.reverse;
  const auto in_order = [is_reversed](const at::Tensor& steps, int64_t dim) {
    return is_reversed ? steps.flip(dim) : steps;
  };
  const at::Tensor input = in_order(call.saved(node.input_), 0); // [T, N, C]
  if (input.dim() != 3 || input.numel() == 0) {
    return nullptr;
  }
  const at::Tensor by_input = call.saved(node.weight0_), by_hidden = call.saved(node.weight1_);
  const int64_t steps = input.size(0), samples = input.size(1), width = by_hidden.size(1);
  at::Tensor offset = at::matmul(input, by_input.t());
  if (node.has_biases) {
    offset = offset + (call.saved(node.weight2_) + call.saved(node.weight3_));
  }
  at::Tensor hidden = call.saved(node.hx__).reshape({samples, width});
  at::Tensor cell = call.saved(node.cx__).reshape({samples, width});
  std::vector<at::Tensor> before; // the hidden state before each step
  std::vector<LstmStep> factors;
  for (const auto t : c10::irange(steps)) {
    const at::Tensor gates = (offset.select(0, t) + hidden.matmul(by_hidden.t())).view({samples, 4, width});
    const at::Tensor in = gates.select(1, 0).sigmoid(), forget = gates.select(1, 1).sigmoid(),
                     change = gates.select(1, 2).tanh(), out = gates.select(1, 3).sigmoid();
    const at::Tensor next = forget * cell + in * change;
    const at::Tensor squashed = next.tanh();
    const at::Tensor by_cell =
        at::stack({change * in * (1 - in), cell * forget * (1 - forget), in * (1 - change * change)}, 1);
    factors.push_back({out * (1 - squashed * squashed), by_cell, squashed * out * (1 - out), forget});
    before.push_back(hidden);
    cell = next;
    hidden = out * squashed;
  }
  const at::Tensor states = at::stack(before); // [T, N, H]
  return [=, factors = std::move(factors), shapes = call.given](Cotangents& taken, Cotangents& given) {
    const at::Tensor& some = taken[0].defined() ? taken[0] : taken[1].defined() ? taken[1] : taken[2];
    if (!some.defined()) {
      return;
    }
    const int64_t rows = some.size(0);
    const auto state = [&](const at::Tensor& cotangents) {
      return cotangents.defined() ? cotangents.reshape({rows, samples, width})
                                  : at::zeros({rows, samples, width}, some.options());
    };
    const at::Tensor outputs = taken[0].defined() ? in_order(taken[0], 1) : at::Tensor(); // [B, T, N, H]
    at::Tensor by_h = state(taken[1]), by_c = state(taken[2]);
    std::vector<at::Tensor> by_gates(steps);
    for (int64_t t = steps - 1; t >= 0; --t) {
      const LstmStep& step = factors[t];
      by_h = outputs.defined() ? by_h + outputs.select(1, t) : by_h;
      by_c = at::addcmul(by_c, by_h, step.cell_by_hidden);
      by_gates[t] =
          at::cat({by_c.unsqueeze(2) * step.gates_by_cell, (by_h * step.output_by_hidden).unsqueeze(2)}, 2).flatten(2);
      by_c = by_c * step.forget;
      by_h = at::matmul(by_gates[t], by_hidden);
    }
    const at::Tensor all = at::stack(by_gates, 1); // [B, T, N, 4 H]
    if (shapes[0].has_value()) {
      given[0] = in_order(at::matmul(all, by_input), 1);
    }
    // Sums over all steps and samples.
    const auto by_weight = [&](const at::Tensor& operand) {
      return at::matmul(all.flatten(1, 2).mT(), operand.reshape({steps * samples, operand.size(2)}));
    };
    if (shapes[1].has_value()) {
      given[1] = by_weight(input);
    }
    if (shapes[2].has_value()) {
      given[2] = by_weight(states);
    }
    if (shapes[3].has_value() || shapes[4].has_value()) {
      const at::Tensor by_bias = all.sum({1, 2});
      given[3] = shapes[3].has_value() ? by_bias : at::Tensor();
      given[4] = shapes[4].has_value() ? by_bias : at::Tensor();
    }
    if (shapes[5].has_value()) {
      given[5] = by_h.reshape(Call::batch_of(by_h, *shapes[5]));
    }
    if (shapes[6].has_value()) {
      given[6] = by_c.reshape(Call::batch_of(by_c, *shapes[6]));
    }
  };
}

} // namespace

void add_recurrent_rules(RuleTable& table) {
  add_rule<MkldnnRnnLayerBackward0>(table, &lstm_layer);
}

} // namespace highgrad::vjp
