#include "ops/expand_symmetric.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>
#include <c10/util/safe_numerics.h>

#include "ops/check_dtype.h"
#include "ops/sym_shape.h"
#include "ops/symmetric_index.h"

namespace highgrad::ops {
namespace {

using Op = at::Tensor(const at::Tensor&, int64_t, int64_t);

SymmetricShape check(const char* name, const at::Tensor& tensor, int64_t size, int64_t order, bool is_packed) {
  TORCH_CHECK(
      size >= 0 && order >= 0 && order <= kMaxOrder,
      name,
      ": expected a size of at least 0 and an order of 0 to ",
      kMaxOrder,
      ", got ",
      size,
      " and ",
      order);
  check_dtype(name, tensor.scalar_type());
  const SymmetricShape shape = symmetric_shape(size, order);
  const int64_t columns = is_packed ? shape.packed : shape.full;
  TORCH_CHECK(
      tensor.dim() == 2 && is_same_size(tensor.sym_size(1), columns),
      name,
      ": expected rows of ",
      columns,
      " elements for size ",
      size,
      " and order ",
      order,
      ", got shape ",
      tensor.sym_sizes());
  return shape;
}

} // namespace

at::Tensor expand_symmetric(const at::Tensor& packed, int64_t size, int64_t order) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("highgrad_ext::expand_symmetric", "").typed<Op>();
  return op.call(packed, size, order);
}

at::Tensor fold_symmetric(const at::Tensor& full, int64_t size, int64_t order) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("highgrad_ext::fold_symmetric", "").typed<Op>();
  return op.call(full, size, order);
}

SymmetricShape symmetric_shape(int64_t size, int64_t order) {
  if (order == 0) {
    return {1, 1, 1, 1};
  }
  int64_t full = 1;
  for (const auto k : c10::irange(order)) {
    (void)k;
    TORCH_CHECK(
        !c10::mul_overflows(full, size, &full),
        "expand_symmetric: expected size^order to be an int64, got ",
        size,
        "^",
        order);
  }
  const auto dims = static_cast<int>(order);
  return {packed_size(size, dims), full, size, dims};
}

SymmetricShape check_expand_symmetric(const at::Tensor& packed, int64_t size, int64_t order) {
  return check("expand_symmetric", packed, size, order, /*is_packed=*/true);
}

SymmetricShape check_fold_symmetric(const at::Tensor& full, int64_t size, int64_t order) {
  return check("fold_symmetric", full, size, order, /*is_packed=*/false);
}

} // namespace highgrad::ops
