#include "ops/assemble_rows.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>

#include "ops/check_dtype.h"
#include "ops/sym_shape.h"

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
  check_dtype("assemble_rows", block.scalar_type());
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

// Whether the two share some of their memory, but are not the same. Of blocks with gaps, which may be disjoint all the
// same, nothing is said.
bool overlap_partly(const at::Tensor& rows, const at::Tensor& block) {
  if (!rows.storage().is_alias_of(block.storage()) || !block.is_non_overlapping_and_dense() || rows.sym_numel() == 0) {
    return false;
  }
  const c10::SymInt rows_begin = rows.sym_storage_offset() * rows.element_size();
  const c10::SymInt block_begin = block.sym_storage_offset() * block.element_size();
  const c10::SymInt rows_end = rows_begin + rows.sym_numel() * rows.element_size();
  const c10::SymInt block_end = block_begin + block.sym_numel() * block.element_size();
  if (rows_begin == block_begin && rows_end == block_end) {
    return rows.sym_strides() != block.sym_strides();
  }
  return rows_begin < block_end && block_begin < rows_end;
}

} // namespace

void check_row_counts(const OptionalTensorList& blocks, c10::SymIntArrayRef row_counts) {
  TORCH_CHECK(
      blocks.size() == row_counts.size(),
      "assemble_rows: expected one row count a block, got ",
      row_counts.size(),
      " for ",
      blocks.size(),
      " blocks");
}

void check_assemble_rows(
    const OptionalTensorList& blocks,
    c10::SymIntArrayRef row_counts,
    c10::SymIntArrayRef output_shape,
    const at::Tensor& like) {
  check_dtype("assemble_rows", like.scalar_type());
  check_row_counts(blocks, row_counts);
  c10::SymInt rows = 0;
  for (const auto k : c10::irange(blocks.size())) {
    TORCH_CHECK(
        is_at_least_zero(row_counts[k]), "assemble_rows: expected row counts of at least 0, got ", row_counts[k]);
    rows = rows + row_counts[k];
    const std::optional<at::Tensor> block = blocks.get(k);
    if (!block.has_value()) {
      continue;
    }
    check_block(*block, like);
    TORCH_CHECK(
        block->dim() == like.dim() + 1 && is_same_size(block->sym_size(0), row_counts[k]) &&
            is_same_shape(block->sym_sizes().slice(1), like.sym_sizes()),
        "assemble_rows: expected block ",
        k,
        " to hold ",
        row_counts[k],
        " rows of shape ",
        like.sym_sizes(),
        ", got shape ",
        block->sym_sizes());
  }
  TORCH_CHECK(
      is_same_size(rows, elements_of(output_shape)),
      "assemble_rows: expected as many rows as output_shape ",
      output_shape,
      " has elements, got ",
      rows);
}

void check_block_of_rows(const at::Tensor& rows, const std::optional<at::Tensor>& block) {
  check_dtype("assemble_rows", rows.scalar_type());
  if (block.has_value()) {
    check_block(*block, rows);
    TORCH_CHECK(
        is_same_shape(block->sym_sizes(), rows.sym_sizes()),
        "assemble_rows_: expected a block of shape ",
        rows.sym_sizes(),
        ", got ",
        block->sym_sizes());
  }
}

void check_assemble_rows_(const at::Tensor& rows, const std::optional<at::Tensor>& block) {
  TORCH_CHECK(rows.is_contiguous(), "assemble_rows_: expected contiguous rows, got strides ", rows.sym_strides());
  check_block_of_rows(rows, block);
  TORCH_CHECK(
      !block.has_value() || !overlap_partly(rows, *block),
      "assemble_rows_: expected a block that shares no memory with the rows, got one that overlaps them");
}

} // namespace highgrad::ops
