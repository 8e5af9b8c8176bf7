// expand_symmetric and fold_symmetric are each the other's adjoint, hence differentiable to any order.

#include "ops/expand_symmetric.h"

#include <torch/library.h>

#include "ops/autograd/record.h"
#include "ops/autograd/symmetric_nodes.h"

namespace highgrad::ops {
namespace {

using Op = at::Tensor (*)(const at::Tensor&, int64_t, int64_t);

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
