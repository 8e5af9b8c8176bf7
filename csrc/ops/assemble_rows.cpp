#include "ops/assemble_rows.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>
#include <c10/util/accumulate.h>
#include <c10/util/irange.h>

namespace highgrad::ops {

at::Tensor assemble_rows(
    const OptionalTensorList& blocks,
    c10::SymIntArrayRef row_counts,
    c10::SymIntArrayRef output_shape,
    const at::Tensor& like) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("highgrad_ext::assemble_rows", "")
          .typed<at::Tensor(const OptionalTensorList&, c10::SymIntArrayRef, c10::SymIntArrayRef, const at::Tensor&)>();
  return op.call(blocks, row_counts, output_shape, like);
}

void assemble_rows_(const at::Tensor& rows, const std::optional<at::Tensor>& block) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("highgrad_ext::assemble_rows_", "")
                             .typed<void(const at::Tensor&, const std::optional<at::Tensor>&)>();
  op.call(rows, block);
}

namespace {

void check_block(const at::Tensor& block, const at::Tensor& like) {
  TORCH_CHECK(
      block.is_complex() == like.is_complex(),
      "assemble_rows: expected blocks and result to be both real or both complex, got a block of ",
      block.scalar_type(),
      " for a result of ",
      like.scalar_type());
  TORCH_CHECK(
      block.device() == like.device(),
      "assemble_rows: expected every block on ",
      like.device(),
      ", got one on ",
      block.device());
}

} // namespace

void check_assemble_rows(
    const OptionalTensorList& blocks,
    c10::IntArrayRef row_counts,
    c10::IntArrayRef output_shape,
    const at::Tensor& like) {
  TORCH_CHECK(
      blocks.size() == row_counts.size(),
      "assemble_rows: expected one row count a block, got ",
      row_counts.size(),
      " for ",
      blocks.size(),
      " blocks");
  int64_t rows = 0;
  for (const auto k : c10::irange(blocks.size())) {
    TORCH_CHECK(row_counts[k] >= 0, "assemble_rows: expected row counts of at least 0, got ", row_counts[k]);
    rows += row_counts[k];
    const std::optional<at::Tensor> block = blocks.get(k);
    if (!block.has_value()) {
      continue;
    }
    check_block(*block, like);
    TORCH_CHECK(
        block->dim() == like.dim() + 1 && block->size(0) == row_counts[k] && block->sizes().slice(1) == like.sizes(),
        "assemble_rows: expected block ",
        k,
        " to hold ",
        row_counts[k],
        " rows of shape ",
        like.sizes(),
        ", got shape ",
        block->sizes());
  }
  TORCH_CHECK(
      rows == c10::multiply_integers(output_shape),
      "assemble_rows: expected as many rows as output_shape ",
      output_shape,
      " has elements, got ",
      rows);
}

void check_assemble_rows_(const at::Tensor& rows, const std::optional<at::Tensor>& block) {
  TORCH_CHECK(rows.is_contiguous(), "assemble_rows_: expected contiguous rows, got strides ", rows.strides());
  if (block.has_value()) {
    check_block(*block, rows);
    TORCH_CHECK(
        block->sizes() == rows.sizes(),
        "assemble_rows_: expected a block of shape ",
        rows.sizes(),
        ", got ",
        block->sizes());
    at::assert_no_partial_overlap(rows, *block);
  }
}

} // namespace highgrad::ops
