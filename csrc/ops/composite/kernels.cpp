// assemble_rows on every device that has assemble_rows_: one allocation, one in-place write a block.

#include <ATen/ops/empty.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include "ops/assemble_rows.h"
#include "ops/joined_shape.h"

namespace highgrad::ops {
namespace {

at::Tensor assemble_rows_composite(
    const OptionalTensorList& blocks,
    at::IntArrayRef row_counts,
    at::IntArrayRef output_shape,
    const at::Tensor& like) {
  check_assemble_rows(blocks, c10::fromIntArrayRefSlow(row_counts), c10::fromIntArrayRefSlow(output_shape), like);
  const at::Tensor result = at::empty(joined_shape(output_shape, like.sizes()), like.options().layout(at::kStrided));
  const int64_t num_rows = result.numel() == 0 ? 0 : result.numel() / like.numel();
  const at::Tensor rows = result.view(joined_shape(num_rows, like.sizes()));
  int64_t first_row = 0;
  for (const auto k : c10::irange(blocks.size())) {
    if (row_counts[k] > 0 && rows.numel() > 0) {
      assemble_rows_(rows.narrow(0, first_row, row_counts[k]), blocks.get(k));
    }
    first_row += row_counts[k];
  }
  return result;
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, CompositeExplicitAutograd, m) {
  m.impl("assemble_rows", TORCH_FN(highgrad::ops::assemble_rows_composite));
}
