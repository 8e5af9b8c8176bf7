#pragma once

#include "ops/cuda/element.cuh"
#include "ops/index_math.h"
#include "ops/launch_plan.h"
#include "ops/transpose_plan.h"

namespace highgrad::ops::cuda {

// Elements a thread of copy_block_kernel has under way at once: with one, a device would wait for its memory.
constexpr int kCopyItems = 4;

// dst: numel contiguous elements. src: the same elements in row-major order of `layout`, whose dimensions are merged as
// far as they can be. A block copies kCopyItems elements a thread, then goes on a grid further; neighbouring threads
// have neighbouring elements. Every element of dst is written by one thread, once.
template <typename dst_t, typename src_t>
__global__ void copy_block_kernel(
    dst_t* __restrict__ dst,
    const src_t* __restrict__ src,
    const __grid_constant__ StridedLayout layout,
    int64_t numel) {
  constexpr int64_t kInBlock = kBlockThreads * kCopyItems;
#pragma unroll 1
  for (int64_t begin = blockIdx.x * kInBlock; begin < numel; begin += gridDim.x * kInBlock) {
    int64_t linear[kCopyItems];
    int64_t offset[kCopyItems];
#pragma unroll
    for (int k = 0; k < kCopyItems; ++k) {
      linear[k] = begin + k * kBlockThreads + threadIdx.x;
      offset[k] = 0;
    }
    if (layout.num_dims == 1) {
#pragma unroll
      for (int k = 0; k < kCopyItems; ++k) {
        offset[k] = linear[k] * layout.strides[0];
      }
    } else {
#pragma unroll 1
      for (int dim = layout.num_dims - 1; dim >= 0; --dim) {
#pragma unroll
        for (int k = 0; k < kCopyItems; ++k) {
          peel_dim(layout, dim, linear[k], offset[k]);
        }
      }
    }
    src_t values[kCopyItems];
#pragma unroll
    for (int k = 0; k < kCopyItems; ++k) {
      if (begin + k * kBlockThreads + threadIdx.x < numel) {
        values[k] = src[offset[k]];
      }
    }
#pragma unroll
    for (int k = 0; k < kCopyItems; ++k) {
      const int64_t i = begin + k * kBlockThreads + threadIdx.x;
      if (i < numel) {
        dst[i] = Convert<dst_t, src_t>::apply(values[k]);
      }
    }
  }
}

// The same copy where the source is densest in another dimension than the last: a block reads a tile in the source's
// order into shared memory, and writes it in the result's, so that both sides use whole sectors. Tiles are disjoint and
// their elements are dealt to the threads in turn; the barriers part the writes to shared memory from the reads.
template <typename dst_t, typename src_t>
__global__ void copy_transposed_kernel(
    dst_t* __restrict__ dst,
    const src_t* __restrict__ src,
    const __grid_constant__ TransposePlan plan) {
  __shared__ dst_t shared[tile_capacity(sizeof(dst_t))];
#pragma unroll 1
  for (int64_t index = blockIdx.x; index < plan.num_tiles; index += gridDim.x) {
    const Tile tile = place_tile(plan, index);
    const int numel = tile.rows * tile.columns;
#pragma unroll 1
    for (int begin = threadIdx.x; begin < numel; begin += kBlockThreads * kCopyItems) {
      src_t values[kCopyItems];
      int place[kCopyItems];
#pragma unroll
      for (int k = 0; k < kCopyItems; ++k) {
        const int i = begin + k * kBlockThreads;
        if (i < numel) {
          const int column = i / tile.rows;
          const int row = i - column * tile.rows;
          values[k] = src[tile.src_offset + row * plan.src_row_stride + column * plan.src_column_stride];
          place[k] = row * plan.pitch + column;
        }
      }
#pragma unroll
      for (int k = 0; k < kCopyItems; ++k) {
        if (begin + k * kBlockThreads < numel) {
          shared[place[k]] = Convert<dst_t, src_t>::apply(values[k]);
        }
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < numel; i += kBlockThreads) {
      const int row = i / tile.columns;
      const int column = i - row * tile.columns;
      dst[tile.dst_offset + row * plan.dst_row_stride + column] = shared[row * plan.pitch + column];
    }
    __syncthreads();
  }
}

} // namespace highgrad::ops::cuda
