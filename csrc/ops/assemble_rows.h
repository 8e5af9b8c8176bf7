#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>

namespace highgrad::ops {

using OptionalTensorList = c10::List<std::optional<at::Tensor>>;

// The Jacobian of shape output_shape + like.shape, of like's dtype and device, out of blocks of whole rows: block k
// holds row_counts[k] rows of shape like.shape in any strides and any dtype of the same kind; a missing block stands
// for zeros. Differentiable by the blocks, to any order.
at::Tensor assemble_rows(
    const OptionalTensorList& blocks,
    c10::SymIntArrayRef row_counts,
    c10::SymIntArrayRef output_shape,
    const at::Tensor& like);

// Writes one block into the contiguous tensor `rows` of the same shape, in place, by the same kernel. Not
// differentiable.
void assemble_rows_(const at::Tensor& rows, const std::optional<at::Tensor>& block);

// What the kernels of all devices, and of none (Meta), check first.
void check_assemble_rows(
    const OptionalTensorList& blocks,
    c10::SymIntArrayRef row_counts,
    c10::SymIntArrayRef output_shape,
    const at::Tensor& like);
void check_assemble_rows_(const at::Tensor& rows, const std::optional<at::Tensor>& block);

// Parts of them: that there are as many counts as blocks, and what does not depend on where a tensor lies in memory.
void check_row_counts(const OptionalTensorList& blocks, c10::SymIntArrayRef row_counts);
void check_block_of_rows(const at::Tensor& rows, const std::optional<at::Tensor>& block);

} // namespace highgrad::ops
