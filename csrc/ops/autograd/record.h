#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include "torch_compat.h"

namespace highgrad::ops {

// The result of `op()`, run below autograd, as a function of `inputs` (a tensor, or a list) whose backward is a new
// Node that `fill` has saved into; without a Node where no input requires grad. A Node of our own rather than a
// torch::autograd::Function, which torch.func's transforms refuse.
template <typename Backward, typename Inputs, typename Fill, typename Op>
at::Tensor record(const Inputs& inputs, Fill&& fill, Op&& op) {
  NodePtr<Backward> node;
  if (torch::autograd::compute_requires_grad(inputs)) {
    node = make_node<Backward>();
    node->set_next_edges(torch::autograd::collect_next_edges(inputs));
    fill(*node);
  }
  at::Tensor result;
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    result = op();
  }
  if (node) {
    torch::autograd::set_history(result, node);
  }
  return result;
}

} // namespace highgrad::ops
