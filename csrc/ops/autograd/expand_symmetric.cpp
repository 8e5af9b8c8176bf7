// expand_symmetric and fold_symmetric are each the other's adjoint, hence differentiable to any order.

#include "ops/expand_symmetric.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include "torch_compat.h"

namespace highgrad::ops {
namespace {

using torch::autograd::variable_list;
using Op = at::Tensor (*)(const at::Tensor&, int64_t, int64_t);

struct SymmetricBackward : public torch::autograd::Node {
  int64_t size = 0;
  int64_t order = 0;
};

struct ExpandSymmetricBackward : public SymmetricBackward {
  std::string name() const override {
    return "ExpandSymmetricBackward";
  }
  variable_list apply(variable_list&& grads) override {
    return {grads[0].defined() ? fold_symmetric(grads[0], size, order) : at::Tensor()};
  }
};

struct FoldSymmetricBackward : public SymmetricBackward {
  std::string name() const override {
    return "FoldSymmetricBackward";
  }
  variable_list apply(variable_list&& grads) override {
    return {grads[0].defined() ? expand_symmetric(grads[0], size, order) : at::Tensor()};
  }
};

template <typename Backward, Op op>
at::Tensor record(const at::Tensor& tensor, int64_t size, int64_t order) {
  NodePtr<Backward> node;
  if (torch::autograd::compute_requires_grad(tensor)) {
    node = make_node<Backward>();
    node->set_next_edges(torch::autograd::collect_next_edges(tensor));
    node->size = size;
    node->order = order;
  }
  at::Tensor result;
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    result = op(tensor, size, order);
  }
  if (node) {
    torch::autograd::set_history(result, node);
  }
  return result;
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, Autograd, m) {
  using namespace highgrad::ops;
  m.impl("expand_symmetric", &record<ExpandSymmetricBackward, &expand_symmetric>);
  m.impl("fold_symmetric", &record<FoldSymmetricBackward, &fold_symmetric>);
}
