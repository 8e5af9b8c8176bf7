#include "ops/seed_basis.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <utility>

#include "ops/check_dtype.h"
#include "ops/sym_shape.h"

namespace highgrad::ops {

at::Tensor seed_basis(const at::Tensor& like, c10::SymInt rows, c10::SymInt first_row) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("highgrad_ext::seed_basis", "")
                             .typed<at::Tensor(const at::Tensor&, c10::SymInt, c10::SymInt)>();
  return op.call(like, std::move(rows), std::move(first_row));
}

void check_seed_basis(const at::Tensor& like, const c10::SymInt& rows, const c10::SymInt& first_row) {
  check_dtype("seed_basis", like.scalar_type());
  TORCH_CHECK(
      is_at_least_zero(rows) && is_at_least_zero(first_row),
      "seed_basis: expected rows and first_row of at least 0, got ",
      rows,
      " and ",
      first_row);
}

} // namespace highgrad::ops
