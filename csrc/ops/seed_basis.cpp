#include "ops/seed_basis.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <utility>

namespace highgrad::ops {

at::Tensor seed_basis(const at::Tensor& like, c10::SymInt rows, c10::SymInt first_row) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("highgrad_ext::seed_basis", "")
                             .typed<at::Tensor(const at::Tensor&, c10::SymInt, c10::SymInt)>();
  return op.call(like, std::move(rows), std::move(first_row));
}

void check_seed_basis(int64_t rows, int64_t first_row) {
  TORCH_CHECK(
      rows >= 0 && first_row >= 0,
      "seed_basis: expected rows and first_row of at least 0, got ",
      rows,
      " and ",
      first_row);
}

} // namespace highgrad::ops
