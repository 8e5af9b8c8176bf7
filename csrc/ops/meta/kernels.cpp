// Shapes without data: FakeTensor, torch.compile and device="meta".

#include <ATen/ops/empty.h>
#include <c10/core/SymInt.h>
#include <torch/library.h>

#include <utility>

#include "ops/assemble_rows.h"
#include "ops/seed_basis.h"

namespace highgrad::ops {
namespace {

at::Tensor seed_basis_meta(const at::Tensor& like, c10::SymInt rows, c10::SymInt first_row) {
  check_seed_basis(like, rows, first_row);
  c10::SymDimVector shape{std::move(rows)};
  shape.append(like.sym_sizes().begin(), like.sym_sizes().end());
  return at::empty_symint(shape, like.options().layout(at::kStrided));
}

at::Tensor assemble_rows_meta(
    const OptionalTensorList& blocks,
    c10::SymIntArrayRef row_counts,
    c10::SymIntArrayRef output_shape,
    const at::Tensor& like) {
  check_assemble_rows(blocks, row_counts, output_shape, like);
  c10::SymDimVector shape(output_shape.begin(), output_shape.end());
  shape.append(like.sym_sizes().begin(), like.sym_sizes().end());
  return at::empty_symint(shape, like.options().layout(at::kStrided));
}

void assemble_rows_meta_(const at::Tensor& rows, const std::optional<at::Tensor>& block) {
  check_assemble_rows_(rows, block);
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, Meta, m) {
  m.impl("seed_basis", TORCH_FN(highgrad::ops::seed_basis_meta));
  m.impl("assemble_rows", TORCH_FN(highgrad::ops::assemble_rows_meta));
  m.impl("assemble_rows_", TORCH_FN(highgrad::ops::assemble_rows_meta_));
}
