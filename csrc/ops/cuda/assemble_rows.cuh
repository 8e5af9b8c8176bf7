#pragma once

#include "ops/cuda/element.cuh"
#include "ops/index_math.h"

namespace highgrad::ops::cuda {

// dst: numel contiguous elements. src: the same elements in row-major order of `layout`, whose dimensions are merged
// as far as they can be. One thread an element, then a grid further on; every element of dst is written by one thread,
// once, and neighbouring threads write neighbours.
template <typename dst_t, typename src_t>
__global__ void copy_block_kernel(dst_t* dst, const src_t* src, StridedLayout layout, int64_t numel) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < numel; i += stride) {
    const int64_t offset = layout.num_dims == 1 ? i * layout.strides[0] : strided_offset(layout, layout.num_dims, i);
    dst[i] = Convert<dst_t, src_t>::apply(src[offset]);
  }
}

} // namespace highgrad::ops::cuda
