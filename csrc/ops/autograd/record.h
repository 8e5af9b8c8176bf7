#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include "torch_compat.h"

namespace highgrad::ops {

// The result of `op(inputs)`, run below autograd, as a function of `inputs` (a tensor, or a list) whose backward is a
// new Node that `fill` has saved into; without a Node where no input requires grad. A Node of our own rather than a
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
    result = op(inputs);
  }
  if (node) {
    torch::autograd::set_history(result, node);
  }
  return result;
}

// Whether forward mode carries a tangent of the tensor.
inline bool has_tangent(const at::Tensor& tensor) {
  return tensor._fw_grad(/*level=*/0).defined();
}

// The same of an `op` that is linear: in forward mode, the tangent of the result is `op` of the input's.
template <typename Backward, typename Fill, typename Op>
at::Tensor record_linear(const at::Tensor& input, Fill&& fill, Op&& op) {
  at::Tensor result = record<Backward>(input, fill, op);
  if (has_tangent(input)) {
    result._set_fw_grad(op(input._fw_grad(/*level=*/0)), /*level=*/0, /*is_inplace_op=*/false);
  }
  return result;
}

} // namespace highgrad::ops
