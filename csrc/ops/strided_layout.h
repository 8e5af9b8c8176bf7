#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "ops/index_math.h"

namespace highgrad::ops {

// Sizes and strides of `block` with neighbouring dimensions merged where they are one run in memory.
inline StridedLayout coalesced_layout(const at::Tensor& block) {
  TORCH_CHECK(block.dim() <= kMaxDims, "assemble_rows: expected at most ", kMaxDims, " dimensions, got ", block.dim());
  StridedLayout layout;
  layout.num_dims = 0;
  for (int64_t dim = 0; dim < block.dim(); ++dim) {
    append_dim(layout, block.size(dim), block.stride(dim));
  }
  return layout;
}

} // namespace highgrad::ops
