// expand_symmetric and fold_symmetric are each the other's adjoint, hence differentiable to any order.

#include "ops/expand_symmetric.h"

#include <torch/csrc/autograd/function.h>
#include <torch/library.h>

#include "ops/autograd/record.h"

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
at::Tensor symmetric_autograd(const at::Tensor& tensor, int64_t size, int64_t order) {
  const auto fill = [&](Backward& node) {
    node.size = size;
    node.order = order;
  };
  return record_linear<Backward>(tensor, fill, [&](const at::Tensor& x) { return op(x, size, order); });
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, Autograd, m) {
  using namespace highgrad::ops;
  m.impl("expand_symmetric", &symmetric_autograd<ExpandSymmetricBackward, &expand_symmetric>);
  m.impl("fold_symmetric", &symmetric_autograd<FoldSymmetricBackward, &fold_symmetric>);
}
