#pragma once

#include "ops/copy_plan.h"
#include "ops/cuda/element.cuh"
#include "ops/launch_plan.h"
#include "ops/transpose_plan.h"

namespace highgrad::ops::cuda {

// Elements of so many bytes that a thread has under way at once: with one, a device would wait for its memory.
__host__ __device__ constexpr int copy_items(int64_t element_size) {
  return element_size <= 4 ? 4 : static_cast<int>(16 / element_size);
}

// dst: plan.numel contiguous elements. src: the same elements in row-major order of a layout whose dimensions are
// merged as far as they can be. A thread copies copy_items() elements; neighbouring threads have neighbouring elements.
// Every element of dst is written by one thread, once.
template <typename dst_t, typename src_t>
__global__ void copy_block_kernel(
    dst_t* __restrict__ dst,
    const src_t* __restrict__ src,
    const __grid_constant__ CopyPlan plan) {
  constexpr int kItems = copy_items(sizeof(src_t));
  const uint32_t first = blockIdx.x * (kBlockThreads * kItems) + threadIdx.x;
  uint32_t linear[kItems];
  int64_t offset[kItems];
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    linear[k] = first + k * kBlockThreads;
    offset[k] = 0;
  }
#pragma unroll 1
  for (int dim = plan.num_dims - 1; dim > 0; --dim) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      offset[k] += divide_off(plan.sizes[dim], linear[k]) * plan.strides[dim];
    }
  }
  src_t values[kItems];
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    if (first + k * kBlockThreads < plan.numel) {
      values[k] = src[offset[k] + linear[k] * plan.strides[0]];
    }
  }
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const uint32_t i = first + k * kBlockThreads;
    if (i < plan.numel) {
      dst[i] = Convert<dst_t, src_t>::apply(values[k]);
    }
  }
}

// The same copy where the source is densest in another dimension than the last: a block reads a tile in the source's
// order into shared memory, and writes it in the result's, so that both sides use whole sectors. A thread has one row
// of the tile at first, and one column of it then. Tiles are disjoint; the barrier parts the writes to shared memory
// from the reads.
template <typename dst_t, typename src_t>
__global__ void copy_transposed_kernel(
    dst_t* __restrict__ dst,
    const src_t* __restrict__ src,
    const __grid_constant__ TransposePlan plan) {
  __shared__ dst_t shared[tile_capacity(sizeof(dst_t))];
  constexpr int kItems = copy_items(sizeof(src_t));
  const Tile tile = place_tile(plan, blockIdx.x);
  const int thread = threadIdx.x;
  const int row = thread & ((1 << plan.log_rows) - 1);
  const int columns_apart = kBlockThreads >> plan.log_rows;
  if (row < tile.rows) {
    int column = thread >> plan.log_rows;
    const src_t* from = src + tile.src_offset + row * plan.src_row_stride + column * plan.src_column_stride;
    const int64_t apart = columns_apart * plan.src_column_stride;
    dst_t* to = shared + row * plan.pitch + column;
#pragma unroll 1
    for (; column < tile.columns; column += kItems * columns_apart) {
      src_t values[kItems];
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        if (column + k * columns_apart < tile.columns) {
          values[k] = *from;
        }
        from += apart;
      }
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        if (column + k * columns_apart < tile.columns) {
          *to = Convert<dst_t, src_t>::apply(values[k]);
        }
        to += columns_apart;
      }
    }
  }
  __syncthreads();
  const int column = thread & ((1 << plan.log_columns) - 1);
  const int rows_apart = kBlockThreads >> plan.log_columns;
  if (column < tile.columns) {
    int row = thread >> plan.log_columns;
    const dst_t* from = shared + row * plan.pitch + column;
    dst_t* to = dst + tile.dst_offset + row * plan.dst_row_stride + column;
#pragma unroll 4
    for (; row < tile.rows; row += rows_apart) {
      *to = *from;
      from += rows_apart * plan.pitch;
      to += rows_apart * plan.dst_row_stride;
    }
  }
}

} // namespace highgrad::ops::cuda
