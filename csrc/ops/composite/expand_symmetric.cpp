// By ATen ops: on every device without a kernel of its own, and under functorch's vmap, whose batching
// rules of those ops are right.

#include "ops/expand_symmetric.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

namespace highgrad::ops {
namespace {

// The rank of every entry: the expansion of 0, 1, 2, ..., exact in double, by the kernel of the CPU.
at::Tensor ranks(const at::Tensor& like, int64_t size, int64_t order) {
  const at::Tensor packed = at::arange(symmetric_shape(size, order).packed, at::kDouble);
  return expand_symmetric(packed.unsqueeze(0), size, order).squeeze(0).to(like.device(), at::kLong);
}

at::Tensor expand_symmetric_composite(const at::Tensor& packed, int64_t size, int64_t order) {
  check_expand_symmetric(packed, size, order);
  return packed.index_select(1, ranks(packed, size, order));
}

at::Tensor fold_symmetric_composite(const at::Tensor& full, int64_t size, int64_t order) {
  check_fold_symmetric(full, size, order);
  const at::Tensor zeros = at::zeros({full.size(0), symmetric_shape(size, order).packed}, full.options());
  return zeros.index_add(1, ranks(full, size, order), full);
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, CompositeExplicitAutograd, m) {
  m.impl("expand_symmetric", TORCH_FN(highgrad::ops::expand_symmetric_composite));
  m.impl("fold_symmetric", TORCH_FN(highgrad::ops::fold_symmetric_composite));
}

TORCH_LIBRARY_IMPL(highgrad_ext, FuncTorchBatched, m) {
  m.impl("expand_symmetric", TORCH_FN(highgrad::ops::expand_symmetric_composite));
  m.impl("fold_symmetric", TORCH_FN(highgrad::ops::fold_symmetric_composite));
}
