#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <string>
#include <utility>
#include <vector>

#include "taylor/recurrence.h"
#include "taylor/rule.h"

namespace highgrad::taylor {

// Note [Recorded solutions]
// In torch's operations, one activation of a network takes some tens of Nodes on the graph, each of which reads and
// writes all of its memory again, forward and backward. solve_by_element goes through memory once, so here it is
// recorded as one Node, whose backward is reverse_by_element. Where that backward is to be recorded itself, or gets
// tensors that are none of memory, as those of vmap, it is done in torch's operations, which differentiate to any
// order.

// solve_by_element, recorded as one Node if any of its operands requires gradients. Undefined where it does not serve.
at::Tensor record_solution(
    const Frame& frame,
    const Series& x,
    const at::Tensor& y0,
    const at::Tensor& w0,
    const Slope& slope);

// The Node, from the solution's rows to x, y_0 and, where y_0 does not give it, w_0.
struct SolveSeriesBackward : public torch::autograd::Node {
  SolveSeriesBackward(Frame with_frame, Slope with_slope) : frame(std::move(with_frame)), slope(with_slope) {}

  Frame frame;
  Slope slope;
  int64_t terms = 0; // of x
  torch::autograd::SavedVariable x, y0, w0;
  std::vector<int64_t> x_shape; // of x before it was expanded, and of its cotangent

  std::string name() const override {
    return "SolveSeriesBackward";
  }
  void release_variables() override;
  torch::autograd::variable_list apply(torch::autograd::variable_list&& cotangents) override;
};

void add_solution_rule(RuleTable& table);

} // namespace highgrad::taylor
