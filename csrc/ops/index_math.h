#pragma once

// Index arithmetic shared word for word by the CPU and the CUDA kernels. Every size and offset is an int64_t.

#include <cstdint>

#if defined(__CUDACC__)
#define HIGHGRAD_HOST_DEVICE __host__ __device__ __forceinline__
#define HIGHGRAD_NO_UNROLL _Pragma("unroll 1")
#else
#define HIGHGRAD_HOST_DEVICE inline
#define HIGHGRAD_NO_UNROLL
#endif

namespace highgrad::ops {

// The most dimensions that a coalesced block may keep. torch's vmap stops at 64 as well.
constexpr int kMaxDims = 64;

// Sizes and strides (in elements) of a strided source, outermost dimension first.
struct StridedLayout {
  int64_t sizes[kMaxDims];
  int64_t strides[kMaxDims];
  int num_dims;
};

// Appends one more inner dimension, merged into the one before it where the two are one run in memory, so that a
// contiguous block of any shape becomes one dimension.
HIGHGRAD_HOST_DEVICE void append_dim(StridedLayout& layout, int64_t size, int64_t stride) {
  if (size == 1) {
    return;
  }
  if (layout.num_dims > 0 && layout.strides[layout.num_dims - 1] == size * stride) {
    layout.sizes[layout.num_dims - 1] *= size;
    layout.strides[layout.num_dims - 1] = stride;
    return;
  }
  layout.sizes[layout.num_dims] = size;
  layout.strides[layout.num_dims] = stride;
  layout.num_dims += 1;
}

// Offset in the source of element `linear`, counted in row-major order over the first `num_dims` dimensions.
HIGHGRAD_HOST_DEVICE int64_t strided_offset(const StridedLayout& layout, int num_dims, int64_t linear) {
  int64_t offset = 0;
  HIGHGRAD_NO_UNROLL
  for (int dim = num_dims - 1; dim >= 0; --dim) {
    const int64_t outer = linear / layout.sizes[dim];
    offset += (linear - outer * layout.sizes[dim]) * layout.strides[dim];
    linear = outer;
  }
  return offset;
}

} // namespace highgrad::ops
