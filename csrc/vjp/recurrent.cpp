// Rules of recurrent layers and cells whose kernels torch has no batching rule for.

#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <array>
#include <functional>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// Of recurrent layers, as torch counts them.
enum Kind : int64_t { kRelu, kTanh, kLstm, kGru };

// What the backward of one step of an LSTM is made of; N samples, hidden size H.
struct LstmStep {
  at::Tensor cell_by_hidden; // dc/dh = o (1 - tanh(c)^2): [N, H]
  at::Tensor gates_by_cell; // those of the input, the forget and the cell gate, before their nonlinearity: [N, 3, H]
  at::Tensor output_by_hidden; // likewise that of the output gate: [N, H]
  at::Tensor forget; // [N, H]
};

// Of the gates after their nonlinearity, in the order of torch's weights, and of the cell's state before and tanh of
// that after the step.
LstmStep lstm_step(at::TensorList gates, const at::Tensor& cell, const at::Tensor& squashed) {
  const at::Tensor &in = gates[0], &forget = gates[1], &change = gates[2], &out = gates[3];
  return {
      out * (1 - squashed * squashed),
      at::stack({change * in * (1 - in), cell * forget * (1 - forget), in * (1 - change * change)}, 1),
      squashed * out * (1 - out),
      forget};
}

// From what they are before it, [N, 4 H].
std::vector<at::Tensor> lstm_gates(const at::Tensor& sums) {
  std::vector<at::Tensor> gates = sums.chunk(4, 1);
  for (const auto k : c10::irange(gates.size())) {
    gates[k] = k == 2 ? gates[k].tanh() : gates[k].sigmoid();
  }
  return gates;
}

// [B, N, 4 H], of [B, N, H] each.
at::Tensor by_lstm_gates(const LstmStep& step, const at::Tensor& by_hidden, const at::Tensor& by_cell) {
  return at::cat({by_cell.unsqueeze(2) * step.gates_by_cell, (by_hidden * step.output_by_hidden).unsqueeze(2)}, 2)
      .flatten(2);
}

// Likewise of a GRU: h' = n + z (h - n) with n = tanh(in_n + r hidden_n); r and z are the gates that reset and that
// update. The factors are those of the input's and of the hidden state's sums, before the nonlinearities: [N, 3, H].
struct GruStep {
  at::Tensor input_factor, hidden_factor, update;
};

GruStep gru_step(
    const at::Tensor& reset,
    const at::Tensor& update,
    const at::Tensor& change,
    const at::Tensor& hidden,
    const at::Tensor& by_hidden) {
  const at::Tensor by_change = (1 - update) * (1 - change * change);
  const at::Tensor by_reset = by_change * by_hidden * reset * (1 - reset);
  const at::Tensor by_update = (hidden - change) * update * (1 - update);
  return {
      at::stack({by_reset, by_update, by_change}, 1), at::stack({by_reset, by_update, by_change * reset}, 1), update};
}

// [B, N, 3 H], of [B, N, H].
at::Tensor by_gru_gates(const at::Tensor& grad, const at::Tensor& factor) {
  return (grad.unsqueeze(2) * factor).flatten(2);
}

// Whether there is a kernel of this name where the tensor is.
bool has_kernel(const char* name, const at::Tensor& tensor) {
  const auto schema = c10::Dispatcher::singleton().findSchema({name, ""});
  return schema.has_value() && schema->hasKernelForDispatchKey(c10::highestPriorityBackendTypeId(tensor.key_set()));
}

// Cotangents of both products, [B, N, 3 H], and of the hidden state, [B, N, H].
struct GruRows {
  at::Tensor input, hidden_sums, hidden;
};

// A cell's kernel is linear in its cotangents, and takes each sample for itself: all rows are samples.
GruRows gru_rows(const at::Tensor& workspace, const at::Tensor& grad) {
  const int64_t rows = grad.size(0), samples = grad.size(1), width = grad.size(2);
  const auto given = at::_thnn_fused_gru_cell_backward(
      grad.reshape({rows * samples, width}), workspace.repeat({rows, 1}), /*has_bias=*/false);
  const auto of_rows = [&](const at::Tensor& cotangents) { return cotangents.view({rows, samples, -1}); };
  return {of_rows(std::get<0>(given)), of_rows(std::get<1>(given)), of_rows(std::get<2>(given))};
}

// Likewise: of the gates, [B, N, 4 H], and of the cell, [B, N, H]. One of the cotangents may be undefined.
struct LstmRows {
  at::Tensor gates, cell;
};

LstmRows lstm_rows(
    const at::Tensor& cell,
    const at::Tensor& next,
    const at::Tensor& workspace,
    const at::Tensor& by_hidden,
    const at::Tensor& by_next) {
  const at::Tensor& some = by_hidden.defined() ? by_hidden : by_next;
  const int64_t rows = some.size(0), samples = some.size(1), width = some.size(2);
  const auto flat = [&](const at::Tensor& cotangents) {
    return cotangents.defined() ? std::optional(cotangents.reshape({rows * samples, width})) : std::nullopt;
  };
  const auto given = at::_thnn_fused_lstm_cell_backward_impl(
      flat(by_hidden),
      flat(by_next),
      cell.repeat({rows, 1}),
      next.repeat({rows, 1}),
      workspace.repeat({rows, 1}),
      /*has_bias=*/false);
  return {std::get<0>(given).view({rows, samples, -1}), std::get<1>(given).view({rows, samples, width})};
}

// Cotangents of the products of a step's input and hidden state with the weights, with their biases: [B, N, gates * H].
struct BySums {
  at::Tensor input, hidden;
};

// Takes cotangents of the states after a step, and puts in their place what goes straight to those before it; undefined
// for nothing.
using StepVjp = std::function<BySums(at::Tensor& by_hidden, at::Tensor& by_cell)>;

// By the kernels of cells, for what is not recorded. Puts the states after a step in place of those before it.
StepVjp take_step_by_kernel(
    Kind kind,
    const at::Tensor& input_sums,
    const at::Tensor& hidden_sums,
    at::Tensor& hidden,
    at::Tensor& cell) {
  if (kind == kGru) {
    at::Tensor workspace;
    std::tie(hidden, workspace) = at::_thnn_fused_gru_cell(input_sums, hidden_sums, hidden);
    return [workspace](at::Tensor& by_hidden, at::Tensor& /*by_cell*/) -> BySums {
      GruRows rows = gru_rows(workspace, by_hidden);
      by_hidden = std::move(rows.hidden);
      return {std::move(rows.input), std::move(rows.hidden_sums)};
    };
  }
  at::Tensor next, workspace;
  const at::Tensor before = cell;
  std::tie(hidden, next, workspace) = at::_thnn_fused_lstm_cell(input_sums, hidden_sums, cell);
  cell = next;
  return [=](at::Tensor& by_hidden, at::Tensor& by_cell) -> BySums {
    LstmRows rows = lstm_rows(before, next, workspace, by_hidden, by_cell);
    by_hidden = at::Tensor();
    by_cell = std::move(rows.cell);
    return {rows.gates, rows.gates};
  };
}

// The same by what they are made of.
StepVjp take_step(
    Kind kind,
    const at::Tensor& input_sums,
    const at::Tensor& hidden_sums,
    at::Tensor& hidden,
    at::Tensor& cell) {
  if (kind == kLstm) {
    const std::vector<at::Tensor> gates = lstm_gates(input_sums + hidden_sums);
    const at::Tensor next = gates[1] * cell + gates[0] * gates[2];
    const at::Tensor squashed = next.tanh();
    const LstmStep step = lstm_step(gates, cell, squashed);
    cell = next;
    hidden = gates[3] * squashed;
    return [step](at::Tensor& by_hidden, at::Tensor& by_cell) -> BySums {
      by_cell = at::addcmul(by_cell, by_hidden, step.cell_by_hidden);
      const at::Tensor by_gates = by_lstm_gates(step, by_hidden, by_cell);
      by_cell = by_cell * step.forget;
      by_hidden = at::Tensor();
      return {by_gates, by_gates};
    };
  }
  if (kind == kGru) {
    const std::vector<at::Tensor> in = input_sums.chunk(3, 1), own = hidden_sums.chunk(3, 1);
    const at::Tensor reset = (in[0] + own[0]).sigmoid(), update = (in[1] + own[1]).sigmoid();
    const at::Tensor change = (in[2] + reset * own[2]).tanh();
    const GruStep step = gru_step(reset, update, change, hidden, own[2]);
    hidden = change + update * (hidden - change);
    return [step](at::Tensor& by_hidden, at::Tensor& /*by_cell*/) -> BySums {
      const BySums sums{by_gru_gates(by_hidden, step.input_factor), by_gru_gates(by_hidden, step.hidden_factor)};
      by_hidden = by_hidden * step.update;
      return sums;
    };
  }
  const at::Tensor sums = input_sums + hidden_sums;
  hidden = kind == kTanh ? sums.tanh() : sums.relu();
  const at::Tensor slope = kind == kTanh ? 1 - hidden * hidden : hidden.gt(0).to(hidden.scalar_type());
  return [slope](at::Tensor& by_hidden, at::Tensor& /*by_cell*/) -> BySums {
    const at::Tensor by_sums = by_hidden * slope;
    by_hidden = at::Tensor();
    return {by_sums, by_sums};
  };
}

// What a layer depends on, and the links of a Node of one layer.
enum Operand { kInput, kByInput, kByHidden, kInputBias, kHiddenBias, kHidden, kCell, kOperands };
using Operands = std::array<at::Tensor, kOperands>; // a bias may be undefined, and the state of a cell
using Wanted = std::array<bool, kOperands>;

// One layer in one direction: what it gives, [T, N, H], and its product with cotangents of that, [B, T, N, H] or
// undefined, and of the states after its last step, [B, N, H] or undefined, but not of all.
struct Layer {
  at::Tensor outputs;
  std::function<Operands(const at::Tensor&, at::Tensor, at::Tensor, const Wanted&)> vjp;
};

// Computed again from what it depends on: [T, N, C], [gates * H, C], [gates * H, H], [gates * H] twice, [N, H] twice.
// torch's own backwards are not differentiable again; this is.
Layer layer(Kind kind, const Operands& operands, bool is_reversed) {
  const auto in_order = [is_reversed](const at::Tensor& steps, int64_t dim) {
    return is_reversed ? steps.flip(dim) : steps;
  };
  const at::Tensor input = in_order(operands[kInput], 0), by_input = operands[kByInput], by_own = operands[kByHidden];
  const int64_t steps = input.size(0), samples = input.size(1), width = by_own.size(1);
  at::Tensor input_sums = at::matmul(input, by_input.t());
  if (operands[kInputBias].defined()) {
    input_sums = input_sums + operands[kInputBias];
  }
  at::Tensor hidden = operands[kHidden], cell = operands[kCell];
  const bool has_kernels = !at::GradMode::is_enabled() &&
      ((kind == kGru && has_kernel("aten::_thnn_fused_gru_cell", input)) ||
       (kind == kLstm && has_kernel("aten::_thnn_fused_lstm_cell", input)));
  const auto step = has_kernels ? &take_step_by_kernel : &take_step;
  std::vector<at::Tensor> before, outputs; // the hidden state before and after each step
  std::vector<StepVjp> vjps;
  for (const auto t : c10::irange(steps)) {
    before.push_back(hidden);
    const at::Tensor hidden_sums =
        operands[kHiddenBias].defined() ? at::addmm(operands[kHiddenBias], hidden, by_own.t()) : hidden.mm(by_own.t());
    vjps.push_back(step(kind, input_sums.select(0, t), hidden_sums, hidden, cell));
    outputs.push_back(hidden);
  }
  const at::Tensor states = at::stack(before); // [T, N, H]
  const auto vjp = [=, vjps = std::move(vjps)](
                       const at::Tensor& by_outputs, at::Tensor by_h, at::Tensor by_c, const Wanted& wants) {
    const at::Tensor& some = by_outputs.defined() ? by_outputs : by_h.defined() ? by_h : by_c;
    const int64_t rows = some.size(0);
    const auto or_zeros = [&](const at::Tensor& state) {
      return state.defined() ? state : at::zeros({rows, samples, width}, some.options());
    };
    by_h = or_zeros(by_h);
    by_c = kind == kLstm ? or_zeros(by_c) : at::Tensor();
    const at::Tensor by_ordered = by_outputs.defined() ? in_order(by_outputs, 1) : at::Tensor();
    std::vector<at::Tensor> by_input_sums(steps), by_hidden_sums(steps);
    for (int64_t t = steps - 1; t >= 0; --t) {
      by_h = by_ordered.defined() ? by_h + by_ordered.select(1, t) : by_h;
      BySums sums = vjps[t](by_h, by_c);
      const at::Tensor through = at::matmul(sums.hidden, by_own);
      by_h = by_h.defined() ? by_h + through : through;
      by_input_sums[t] = std::move(sums.input);
      by_hidden_sums[t] = std::move(sums.hidden);
    }
    const at::Tensor of_input = at::stack(by_input_sums, 1); // [B, T, N, gates * H]
    const at::Tensor of_hidden = kind == kGru ? at::stack(by_hidden_sums, 1) : of_input;
    // Sums over all steps and samples.
    const auto by_weight = [&](const at::Tensor& sums, const at::Tensor& operand) {
      return at::matmul(sums.flatten(1, 2).mT(), operand.reshape({steps * samples, operand.size(2)}));
    };
    Operands given;
    given[kInput] = wants[kInput] ? in_order(at::matmul(of_input, by_input), 1) : at::Tensor();
    given[kByInput] = wants[kByInput] ? by_weight(of_input, input) : at::Tensor();
    given[kByHidden] = wants[kByHidden] ? by_weight(of_hidden, states) : at::Tensor();
    given[kInputBias] = wants[kInputBias] ? of_input.sum({1, 2}) : at::Tensor();
    given[kHiddenBias] = wants[kHiddenBias] ? of_hidden.sum({1, 2}) : at::Tensor();
    given[kHidden] = by_h;
    given[kCell] = by_c;
    return given;
  };
  return {in_order(at::stack(outputs), 0), vjp};
}

// One layer of an LSTM in one direction.
BatchedVjp lstm_layer(const Call& call, const MkldnnRnnLayerBackward0& node) {
  const at::Tensor input = call.saved(node.input_);
  if (node.mode != kLstm || !node.batch_sizes.empty() || input.dim() != 3 || input.numel() == 0) {
    return nullptr;
  }
  const auto bias = [&](const torch::autograd::SavedVariable& variable) {
    return node.has_biases ? call.saved(variable) : at::Tensor();
  };
  const at::Tensor by_hidden = call.saved(node.weight1_);
  const Shape of_states{input.size(1), by_hidden.size(1)};
  const Operands operands{
      input,
      call.saved(node.weight0_),
      by_hidden,
      bias(node.weight2_),
      bias(node.weight3_),
      call.saved(node.hx__).reshape(of_states),
      call.saved(node.cx__).reshape(of_states)};
  Wanted wants;
  for (const auto k : c10::irange(wants.size())) {
    wants[k] = call.wants(k);
  }
  return
      [=, vjp = layer(kLstm, operands, node.reverse).vjp, shapes = call.given](Cotangents& taken, Cotangents& given) {
        if (!taken[0].defined() && !taken[1].defined() && !taken[2].defined()) {
          return;
        }
        const auto state = [&](const at::Tensor& cotangents) {
          return cotangents.defined() ? cotangents.reshape(Call::batch_of(cotangents, of_states)) : cotangents;
        };
        const Operands rows = vjp(taken[0], state(taken[1]), state(taken[2]), wants);
        for (const auto k : c10::irange(rows.size())) {
          given[k] = wants[k] ? rows[k].reshape(Call::batch_of(rows[k], *shapes[k])) : at::Tensor();
        }
      };
}

// Layers, each in one or both directions, by a kernel that saves what it alone can read. One row is better left to it,
// but in evaluation it has no backward.
BatchedVjp layers(const Call& call, const CudnnRnnBackward0& node) {
  at::Tensor input = call.saved(node.input_);
  const at::Tensor hidden = call.saved(node.hx_), cell = call.saved(node.cx_); // [layers, N, H]
  const int64_t directions = node.bidirectional ? 2 : 1, count = node.num_layers * directions;
  const int64_t stride = node.weight_stride0; // the weights and biases of a layer
  const auto kind = static_cast<Kind>(node.mode);
  const bool has_dropout = node.train && node.dropout != 0 && node.num_layers > 1;
  if ((call.is_one_row && node.train && !at::GradMode::is_enabled()) || has_dropout || !node.batch_sizes.empty() ||
      node.proj_size.guard_int(__FILE__, __LINE__) != 0 || input.dim() != 3 || input.numel() == 0 ||
      (stride != 2 && stride != 4) || static_cast<int64_t>(node.weight_.size()) != count * stride ||
      cell.defined() != (kind == kLstm)) {
    return nullptr;
  }
  const auto steps_first = [is_second = node.batch_first](const at::Tensor& tensor, int64_t dim) {
    return is_second && tensor.defined() ? tensor.transpose(dim, dim + 1) : tensor;
  };
  input = steps_first(input, 0);
  const size_t hidden_link = node.weight_.size() + 1, cell_link = hidden_link + 1;
  std::vector<Layer> all;
  std::vector<Wanted> wants;
  for (const auto i : c10::irange(count)) {
    const bool is_backward = i % directions == 1;
    Operands operands;
    operands[kInput] = input;
    Wanted wanted{};
    wanted[kInput] = i >= directions || call.wants(0);
    for (const auto k : c10::irange(stride)) {
      operands[kByInput + k] = call.saved(node.weight_[i * stride + k]);
      wanted[kByInput + k] = call.wants(1 + i * stride + k);
    }
    operands[kHidden] = hidden.select(0, i);
    operands[kCell] = cell.defined() ? cell.select(0, i) : cell;
    all.push_back(layer(kind, operands, is_backward));
    wants.push_back(wanted);
    if (i % directions == directions - 1) {
      input = directions == 1 ? all[i].outputs : at::cat({all[i - 1].outputs, all[i].outputs}, 2);
    }
  }
  return [=, all = std::move(all), shapes = call.given, samples = hidden.size(1), width = hidden.size(2)](
             Cotangents& taken, Cotangents& given) {
    const at::Tensor& some = taken[0].defined() ? taken[0] : taken[1].defined() ? taken[1] : taken[2];
    if (!some.defined()) {
      return;
    }
    const auto state = [](const at::Tensor& cotangents, int64_t i) {
      return cotangents.defined() ? cotangents.select(1, i) : cotangents;
    };
    const at::Tensor nothing = at::zeros({some.size(0), samples, width}, some.options());
    at::Tensor by_outputs = steps_first(taken[0], 1), by_input;
    std::vector<at::Tensor> by_hidden(count, nothing), by_cell(count, nothing);
    for (int64_t i = count - 1; i >= 0; --i) {
      const at::Tensor own = by_outputs.defined() ? by_outputs.narrow(3, i % directions * width, width) : at::Tensor();
      const at::Tensor of_hidden = state(taken[1], i), of_cell = state(taken[2], i);
      if (own.defined() || of_hidden.defined() || of_cell.defined()) {
        Operands rows = all[i].vjp(own, of_hidden, of_cell, wants[i]);
        for (const auto k : c10::irange(stride)) {
          given[1 + i * stride + k] = std::move(rows[kByInput + k]);
        }
        by_hidden[i] = rows[kHidden];
        by_cell[i] = rows[kCell];
        by_input = by_input.defined() && rows[kInput].defined() ? by_input + rows[kInput] : rows[kInput];
      }
      if (i % directions == 0) {
        by_outputs = std::exchange(by_input, {});
      }
    }
    if (shapes[0].has_value()) {
      given[0] = steps_first(by_outputs, 1);
    }
    if (shapes[hidden_link].has_value()) {
      given[hidden_link] = at::stack(by_hidden, 1);
    }
    if (shapes[cell_link].has_value()) {
      given[cell_link] = at::stack(by_cell, 1);
    }
  };
}

// The sums of both halves and their biases, from which a cell's gates are computed: [N, gates * H].
template <typename Cell>
at::Tensor sum_of_gates(const Call& call, const Cell& node) {
  const at::Tensor sums = call.saved(node.input_gates_) + call.saved(node.hidden_gates_);
  const at::Tensor bias = call.saved(node.input_bias_);
  return bias.defined() ? sums + (bias + call.saved(node.hidden_bias_)) : sums;
}

// Hands on the cotangents of a cell's products and, summed over the samples, of their biases: links 0, 1, 3 and 4.
void hand_on_sums(
    const std::vector<std::optional<Shape>>& shapes,
    const at::Tensor& by_input,
    const at::Tensor& by_hidden,
    Cotangents& given) {
  given[0] = shapes[0].has_value() ? by_input : at::Tensor();
  given[1] = shapes[1].has_value() ? by_hidden : at::Tensor();
  given[3] = shapes[3].has_value() ? by_input.sum(1) : at::Tensor();
  given[4] = shapes[4].has_value() ? by_hidden.sum(1) : at::Tensor();
}

// One step of an LSTM by a kernel, of gates that are sums of two products. What the kernel has saved has no graph.
BatchedVjp lstm_cell(const Call& call, const ThnnFusedLstmCellBackward0& node) {
  const at::Tensor cell = call.saved(node.cx_);
  if (!at::GradMode::is_enabled()) {
    return [cell, next = call.saved(node.result1_), workspace = call.saved(node.result2_), shapes = call.given](
               Cotangents& taken, Cotangents& given) {
      if (taken[0].defined() || taken[1].defined()) {
        const LstmRows rows = lstm_rows(cell, next, workspace, taken[0], taken[1]);
        hand_on_sums(shapes, rows.gates, rows.gates, given);
        given[2] = shapes[2].has_value() ? rows.cell : at::Tensor();
      }
    };
  }
  const std::vector<at::Tensor> gates = lstm_gates(sum_of_gates(call, node));
  const at::Tensor next = gates[1] * cell + gates[0] * gates[2];
  return [step = lstm_step(gates, cell, next.tanh()), shapes = call.given](Cotangents& taken, Cotangents& given) {
    const at::Tensor &by_h = taken[0], &by_c = taken[1];
    const at::Tensor by_next = !by_h.defined() ? by_c
        : !by_c.defined()                      ? by_h * step.cell_by_hidden
                                               : at::addcmul(by_c, by_h, step.cell_by_hidden);
    if (by_next.defined()) {
      const at::Tensor by_gates = by_lstm_gates(step, by_h.defined() ? by_h : at::zeros_like(by_next), by_next);
      hand_on_sums(shapes, by_gates, by_gates, given);
      given[2] = shapes[2].has_value() ? by_next * step.forget : at::Tensor();
    }
  };
}

BatchedVjp gru_cell(const Call& call, const ThnnFusedGruCellBackward0& node) {
  if (!at::GradMode::is_enabled()) {
    return [workspace = call.saved(node.result1_), shapes = call.given](Cotangents& taken, Cotangents& given) {
      if (taken[0].defined()) {
        const GruRows rows = gru_rows(workspace, taken[0]);
        hand_on_sums(shapes, rows.input, rows.hidden_sums, given);
        given[2] = shapes[2].has_value() ? rows.hidden : at::Tensor();
      }
    };
  }
  const std::vector<at::Tensor> sums = sum_of_gates(call, node).chunk(3, 1);
  const at::Tensor hidden_sums = call.saved(node.hidden_gates_), bias = call.saved(node.hidden_bias_);
  const at::Tensor by_hidden = (bias.defined() ? hidden_sums + bias : hidden_sums).chunk(3, 1)[2];
  const at::Tensor reset = sums[0].sigmoid();
  const at::Tensor change = (sums[2] + (reset - 1) * by_hidden).tanh();
  return [step = gru_step(reset, sums[1].sigmoid(), change, call.saved(node.hx_), by_hidden), shapes = call.given](
             Cotangents& taken, Cotangents& given) {
    if (taken[0].defined()) {
      hand_on_sums(
          shapes, by_gru_gates(taken[0], step.input_factor), by_gru_gates(taken[0], step.hidden_factor), given);
      given[2] = shapes[2].has_value() ? taken[0] * step.update : at::Tensor();
    }
  };
}

} // namespace

void add_recurrent_rules(RuleTable& table) {
  add_rule<ThnnFusedLstmCellBackward0>(table, &lstm_cell);
  add_rule<ThnnFusedGruCellBackward0>(table, &gru_cell);
  add_rule<MkldnnRnnLayerBackward0>(table, &lstm_layer);
  add_rule<CudnnRnnBackward0>(table, &layers);
}

} // namespace highgrad::vjp
