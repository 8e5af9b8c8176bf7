#pragma once

// How a strided block is copied to contiguous elements, in the order of those. Plain C++, so that it is tested where
// there is no GPU.

#include <cstdint>

#include "ops/divider.h"
#include "ops/index_math.h"

namespace highgrad::ops {

// The most elements that a kernel copies: it counts them in 32 bits.
constexpr int64_t kMostCopied = int64_t{1} << 30;

// A block of at most so many elements. The first dimension is not divided by.
struct CopyPlan {
  Divider sizes[kMaxDims];
  int64_t strides[kMaxDims];
  int32_t num_dims;
  uint32_t numel;
};

inline CopyPlan plan_copy(const StridedLayout& layout, int64_t numel) {
  CopyPlan plan;
  plan.num_dims = layout.num_dims;
  plan.numel = static_cast<uint32_t>(numel);
  plan.strides[0] = 0; // of a block of one element
  for (int dim = 0; dim < layout.num_dims; ++dim) {
    plan.sizes[dim] = make_divider(static_cast<uint32_t>(layout.sizes[dim]));
    plan.strides[dim] = layout.strides[dim];
  }
  return plan;
}

// Of a larger block: `count` of what the outermost dimension counts, the sizes of which it has `layout.sizes[0]`.
inline StridedLayout part_of(const StridedLayout& layout, int64_t count) {
  StridedLayout part;
  part.num_dims = 0;
  append_dim(part, count, layout.strides[0]);
  for (int dim = 1; dim < layout.num_dims; ++dim) {
    append_dim(part, layout.sizes[dim], layout.strides[dim]);
  }
  return part;
}

// The most bytes, up to 16, that elements which are only moved can be moved by at once: what both addresses, a run of
// the source and all steps between runs are multiples of.
inline int64_t bytes_at_once(const void* dst, const void* src, const StridedLayout& layout, int64_t element_size) {
  const int last = layout.num_dims - 1;
  if (last < 0 || layout.strides[last] != 1) {
    return element_size;
  }
  uint64_t multiples = reinterpret_cast<uintptr_t>(dst) | reinterpret_cast<uintptr_t>(src) | 16;
  multiples |= static_cast<uint64_t>(layout.sizes[last] * element_size);
  for (int dim = 0; dim < last; ++dim) {
    multiples |= static_cast<uint64_t>(layout.strides[dim] * element_size);
  }
  return static_cast<int64_t>(multiples & -multiples);
}

// The same block in elements `times` as long.
inline StridedLayout in_longer_elements(StridedLayout layout, int64_t times) {
  const int last = layout.num_dims - 1;
  for (int dim = 0; dim < last; ++dim) {
    layout.strides[dim] /= times;
  }
  if (times > 1) {
    layout.sizes[last] /= times;
  }
  return layout;
}

} // namespace highgrad::ops
