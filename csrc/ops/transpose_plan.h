#pragma once

// How a block whose source is densest in another dimension than its last is copied, tile by tile. Plain C++, so that it
// is tested where there is no GPU.

#include <algorithm>
#include <cstdint>

#include "ops/index_math.h"

namespace highgrad::ops {

// The two dimensions of a tile: `rows`, in which the source is densest, and `columns`, the last, in which the result
// is contiguous. All others number the matrices that are cut into tiles.
struct TransposePlan {
  StridedLayout matrices; // the other dimensions, with the source's strides, the first changing fastest
  int64_t dst_strides[kMaxDims]; // the result's, of the same
  int64_t rows;
  int64_t columns;
  int64_t src_row_stride;
  int64_t src_column_stride;
  int64_t dst_row_stride;
  int64_t tiles_down; // of one matrix
  int64_t tiles_across;
  int64_t num_tiles; // of all matrices
  int32_t tile_rows;
  int32_t tile_columns;
  int32_t pitch; // elements from one row of the tile to the next in shared memory
};

// One tile: where it starts, and how much of it there is.
struct Tile {
  int64_t src_offset;
  int64_t dst_offset;
  int32_t rows;
  int32_t columns;
};

// Side of a square tile of elements of this size.
HIGHGRAD_HOST_DEVICE constexpr int32_t tile_side(int64_t element_size) {
  return element_size <= 4 ? 64 : 32;
}

// An odd number of banks (4 bytes; 8 or 16 for elements of that size), so that neither the elements of a row nor those
// of a column share a bank.
HIGHGRAD_HOST_DEVICE constexpr int32_t tile_pitch(int32_t columns, int64_t element_size) {
  return element_size == 2 ? (((columns + 1) / 2) | 1) * 2 : columns | 1;
}

// Elements of shared memory that any tile fits into.
HIGHGRAD_HOST_DEVICE constexpr int32_t tile_capacity(int64_t element_size) {
  return tile_side(element_size) * tile_pitch(tile_side(element_size), element_size);
}

// The dimension in which the source is densest. Ties go to the last, so that what is dense there is copied directly.
inline int densest_dim(const StridedLayout& layout) {
  int densest = layout.num_dims - 1;
  for (int dim = layout.num_dims - 2; dim >= 0; --dim) {
    if (layout.strides[dim] != 0 && layout.strides[dim] < layout.strides[densest]) {
      densest = dim;
    }
  }
  return densest;
}

// Bytes that lie side by side in the source, of one matrix or of several that are done one after the other. Of less,
// the sectors that matrices share would be much of all.
constexpr int64_t kLeastRun = 320;

// Tiles for `layout`, whose densest dimension is `row_dim` and not the last, of elements of these sizes in bytes.
inline TransposePlan plan_transpose(
    const StridedLayout& layout,
    int row_dim,
    int64_t dst_element_size,
    int64_t src_element_size) {
  const int last = layout.num_dims - 1;
  TransposePlan plan;
  plan.rows = layout.sizes[row_dim];
  plan.columns = layout.sizes[last];
  plan.src_row_stride = layout.strides[row_dim];
  plan.src_column_stride = layout.strides[last];

  // Matrices in the result's order.
  StridedLayout& matrices = plan.matrices;
  matrices.num_dims = 0;
  int64_t num_matrices = 1;
  int64_t dst_stride = plan.columns;
  for (int dim = last - 1; dim >= 0; --dim) {
    if (dim == row_dim) {
      plan.dst_row_stride = dst_stride;
    } else {
      matrices.sizes[matrices.num_dims] = layout.sizes[dim];
      matrices.strides[matrices.num_dims] = layout.strides[dim];
      plan.dst_strides[matrices.num_dims] = dst_stride;
      matrices.num_dims += 1;
      num_matrices *= layout.sizes[dim];
    }
    dst_stride *= layout.sizes[dim];
  }
  // Where a matrix has little that lies side by side in the source, those that lie next to it come first.
  int64_t run = plan.rows * src_element_size;
  for (int dim = 0; dim < matrices.num_dims && run < kLeastRun; ++dim) {
    int next = dim;
    for (int other = dim + 1; other < matrices.num_dims; ++other) {
      const int64_t stride = matrices.strides[other];
      if (stride != 0 && (matrices.strides[next] == 0 || stride < matrices.strides[next])) {
        next = other;
      }
    }
    std::rotate(matrices.sizes + dim, matrices.sizes + next, matrices.sizes + next + 1);
    std::rotate(matrices.strides + dim, matrices.strides + next, matrices.strides + next + 1);
    std::rotate(plan.dst_strides + dim, plan.dst_strides + next, plan.dst_strides + next + 1);
    run *= matrices.sizes[dim];
  }

  // Where the matrix is narrower than a tile in one direction, the tile is longer in the other.
  const auto at_most = [](int64_t size, int64_t most) { return static_cast<int32_t>(size < most ? size : most); };
  const int32_t side = tile_side(dst_element_size);
  const int32_t capacity = tile_capacity(dst_element_size);
  plan.tile_rows = at_most(plan.rows, side);
  plan.tile_columns = at_most(plan.columns, plan.rows < side ? capacity / plan.tile_rows - 2 : side);
  plan.pitch = tile_pitch(plan.tile_columns, dst_element_size);
  plan.tile_rows = at_most(plan.rows, capacity / plan.pitch);
  plan.tiles_down = (plan.rows + plan.tile_rows - 1) / plan.tile_rows;
  plan.tiles_across = (plan.columns + plan.tile_columns - 1) / plan.tile_columns;
  plan.num_tiles = num_matrices * plan.tiles_down * plan.tiles_across;
  return plan;
}

// Where rows do not start with a sector of memory, it lies in two tiles: side by side in the result, one below the
// other in the source. Bands of so many tiles are done together, so that both meet in the second-level cache.
constexpr int64_t kBandTiles = 8;

// Tile `index`: down a band of a matrix first, then across it, then the next band, then the next matrix.
HIGHGRAD_HOST_DEVICE Tile place_tile(const TransposePlan& plan, int64_t index) {
  const int64_t in_matrix = plan.tiles_down * plan.tiles_across;
  int64_t matrix = index / in_matrix;
  const int64_t number = index - matrix * in_matrix;
  const int64_t first_down = number / (kBandTiles * plan.tiles_across) * kBandTiles;
  const int64_t left_down = plan.tiles_down - first_down;
  const int64_t in_band = left_down < kBandTiles ? left_down : kBandTiles;
  const int64_t in_row = number - first_down * plan.tiles_across;
  const int64_t across = in_row / in_band;
  const int64_t first_row = (first_down + in_row - across * in_band) * plan.tile_rows;
  const int64_t first_column = across * plan.tile_columns;

  int64_t src_offset = first_row * plan.src_row_stride + first_column * plan.src_column_stride;
  int64_t dst_offset = first_row * plan.dst_row_stride + first_column;
  HIGHGRAD_NO_UNROLL
  for (int dim = 0; dim < plan.matrices.num_dims; ++dim) {
    const int64_t rest = matrix / plan.matrices.sizes[dim];
    const int64_t place = matrix - rest * plan.matrices.sizes[dim];
    src_offset += place * plan.matrices.strides[dim];
    dst_offset += place * plan.dst_strides[dim];
    matrix = rest;
  }

  const int64_t rows_left = plan.rows - first_row;
  const int64_t columns_left = plan.columns - first_column;
  return {
      src_offset,
      dst_offset,
      static_cast<int32_t>(rows_left < plan.tile_rows ? rows_left : plan.tile_rows),
      static_cast<int32_t>(columns_left < plan.tile_columns ? columns_left : plan.tile_columns)};
}

} // namespace highgrad::ops
