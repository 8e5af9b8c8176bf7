#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tape/summing_node.h"
#include "taylor/composition.h"
#include "taylor/rule.h"

namespace highgrad::taylor {

// Note [Recorded compositions]
// In torch's operations, one activation of a network takes some tens of Nodes on the graph, each of which reads and
// writes all of its memory again, forward and backward. compose_by_element goes through memory once, so here it is
// recorded as one Node, whose backward is reverse_composition. Where that backward is to be recorded itself, or gets
// tensors that are none of memory, as those of vmap, it is done in torch's operations, which differentiate to any
// order.

// The jet of phi(x) for the input x of a Node that saved `anchor`. Where it can be composed by element, and that is
// less work than the function's own series: as one Node, if it is recorded. See Note [Recorded compositions].
Jet apply_function(
    const Call& call,
    const at::Tensor& anchor,
    const std::shared_ptr<const PointwiseFunction>& function);

// The jet of phi(x) from that of x, whose value has the given gradient edge, where it can be composed by element and
// that is less work than the function's own series along all directions.
std::optional<Jet> compose_function(
    const Frame& frame,
    const Jet& x,
    const at::Tensor& anchor,
    const torch::autograd::Edge& edge,
    const std::shared_ptr<const PointwiseFunction>& function);

// c_1, ..., c_orders as [orders, *shape], recorded with their gradient by x_0, at `edge`.
at::Tensor record_local_series(
    const std::shared_ptr<const PointwiseFunction>& function,
    const at::Tensor& anchor,
    const torch::autograd::Edge& edge,
    int64_t orders);

// From the rows of phi(x) to those of x, and to x_0.
struct ComposeSeriesBackward : public tape::SummingNode {
  Frame frame;
  std::shared_ptr<const PointwiseFunction> function;
  int64_t terms = 0; // of x
  LocalSeries local; // without seeds
  torch::autograd::SavedVariable x, anchor;
  std::vector<torch::autograd::SavedVariable> seeds;
  std::vector<int64_t> x_shape; // of x before it was expanded, and of its cotangent

  std::string name() const override {
    return "ComposeSeriesBackward";
  }
  void release_variables() override;
  torch::autograd::variable_list apply(torch::autograd::variable_list&& cotangents) override;
  at::Tensor expanded_cotangent(const at::Tensor& by_rows) override;
  // Of a batch of cotangents, [B, rows, *shape], those of x's rows and of x_0, with the batch in front.
  ComposedCotangents reverse_batch(const at::Tensor& cotangents);

 private:
  bool goes_by_element(const at::Tensor& by_rows) const;
  // shape: of the cotangent of x, which may be summed no further.
  ComposedCotangents reverse(const at::Tensor& by_rows, at::IntArrayRef shape);
};

// From c_1, ..., c_orders to x_0.
struct LocalSeriesBackward : public torch::autograd::Node {
  std::shared_ptr<const PointwiseFunction> function;
  torch::autograd::SavedVariable anchor;
  int64_t orders = 0;

  std::string name() const override {
    return "LocalSeriesBackward";
  }
  void release_variables() override;
  torch::autograd::variable_list apply(torch::autograd::variable_list&& cotangents) override;
};

void add_composition_rules(RuleTable& table);

} // namespace highgrad::taylor
