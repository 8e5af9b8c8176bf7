#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "plan/cost.h"
#include "tape/tape.h"

namespace highgrad::engine {

// Of all inputs, those with elements on which the output depends.
struct ReachedInputs {
  ReachedInputs(
      const at::Tensor& output,
      const tape::Tape& tape,
      const std::vector<at::Tensor>& all,
      const torch::autograd::edge_list& all_edges) {
    for (size_t j = 0; j < all.size(); ++j) {
      mask.push_back(tape.inputs[j].is_on_tape() && all[j].numel() > 0 && output.numel() > 0);
      if (mask.back()) {
        inputs.push_back(all[j]);
        edges.push_back(all_edges[j]);
        slots.push_back(tape.inputs[j]);
      }
    }
  }

  std::vector<at::Tensor> inputs;
  torch::autograd::edge_list edges;
  std::vector<tape::Slot> slots;
  std::vector<bool> mask; // of all inputs
};

// One output and the inputs that it reaches: what is to be computed.
struct OutputProblem {
  const at::Tensor& output;
  const tape::Tape& tape;
  const std::vector<at::Tensor>& inputs;
  const torch::autograd::edge_list& edges;
  const std::vector<tape::Slot>& slots;
  // Whether columns may be computed, in forward mode, where that is cheaper.
  bool may_go_forward = true;
  // What the Jacobian costs without structure, in rows of reverse mode; all rows, unless there is a better plan.
  std::optional<double> dense_cost = std::nullopt;
  // Likewise, in nanoseconds, where that was estimated, and of what work; and whether sweeps need torch's engine.
  std::optional<double> dense_nanoseconds = std::nullopt;
  std::optional<plan::Work> work = std::nullopt;
  bool needs_engine = true;

  // Elements of all inputs.
  int64_t count_columns() const {
    int64_t columns = 0;
    for (const at::Tensor& input : inputs) {
      columns += input.numel();
    }
    return columns;
  }
};

} // namespace highgrad::engine
