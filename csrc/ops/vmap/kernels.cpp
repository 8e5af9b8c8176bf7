// functorch's vmap: each op decomposed into ATen ops whose batching rules torch has, right at every level of nesting.

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include "ops/assemble_rows.h"
#include "ops/joined_shape.h"
#include "ops/seed_basis.h"

namespace highgrad::ops {
namespace {

at::Tensor seed_basis_vmap(const at::Tensor& like, int64_t rows, int64_t first_row) {
  check_seed_basis(like, rows, first_row);
  at::Tensor basis = at::zeros({rows, like.numel()}, like.options());
  basis.diagonal(first_row).fill_(1);
  return basis.reshape(joined_shape(rows, like.sizes()));
}

at::Tensor assemble_rows_vmap(
    const OptionalTensorList& blocks,
    at::IntArrayRef row_counts,
    at::IntArrayRef output_shape,
    const at::Tensor& like) {
  check_assemble_rows(blocks, c10::fromIntArrayRefSlow(row_counts), c10::fromIntArrayRefSlow(output_shape), like);
  std::vector<at::Tensor> parts;
  parts.reserve(blocks.size());
  for (const auto k : c10::irange(blocks.size())) {
    const std::optional<at::Tensor> block = blocks.get(k);
    if (block.has_value()) {
      parts.push_back(block->to(like.scalar_type()));
    } else {
      parts.push_back(at::zeros(joined_shape(row_counts[k], like.sizes()), like.options()));
    }
  }
  const std::vector<int64_t> shape = joined_shape(output_shape, like.sizes());
  return parts.empty() ? at::zeros(shape, like.options()) : at::cat(parts).reshape(shape);
}

void assemble_rows_vmap_(const at::Tensor& rows, const std::optional<at::Tensor>& block) {
  check_block_of_rows(rows, block);
  if (block.has_value()) {
    rows.copy_(*block);
  } else {
    rows.zero_();
  }
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, FuncTorchBatched, m) {
  m.impl("seed_basis", TORCH_FN(highgrad::ops::seed_basis_vmap));
  m.impl("assemble_rows", TORCH_FN(highgrad::ops::assemble_rows_vmap));
  m.impl("assemble_rows_", TORCH_FN(highgrad::ops::assemble_rows_vmap_));
}
