#include "ops/expand_symmetric.h"

#include <ATen/ops/empty.h>
#include <c10/core/SymInt.h>
#include <torch/library.h>

namespace highgrad::ops {
namespace {

at::Tensor expand_symmetric_meta(const at::Tensor& packed, int64_t size, int64_t order) {
  const SymmetricShape shape = check_expand_symmetric(packed, size, order);
  return at::empty_symint({packed.sym_size(0), shape.full}, packed.options());
}

at::Tensor fold_symmetric_meta(const at::Tensor& full, int64_t size, int64_t order) {
  const SymmetricShape shape = check_fold_symmetric(full, size, order);
  return at::empty_symint({full.sym_size(0), shape.packed}, full.options());
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, Meta, m) {
  m.impl("expand_symmetric", TORCH_FN(highgrad::ops::expand_symmetric_meta));
  m.impl("fold_symmetric", TORCH_FN(highgrad::ops::fold_symmetric_meta));
}
