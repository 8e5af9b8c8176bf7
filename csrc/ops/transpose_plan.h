#pragma once

// How a block whose source is densest in another dimension than its last is copied, tile by tile. Plain C++, so that it
// is tested where there is no GPU.

#include <cstdint>

#include "ops/index_math.h"

namespace highgrad::ops {

// The two dimensions of a tile: `rows`, in which the source is densest, and `columns`, the last, in which the result
// is contiguous. All others number the matrices that are cut into tiles.
struct TransposePlan {
  StridedLayout matrices; // the source's other dimensions
  int64_t inner_matrices; // how many of them differ only in dimensions between rows and columns
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

// Tiles for `layout`, whose densest dimension is `row_dim` and not the last, of elements of a size in the result.
inline TransposePlan plan_transpose(const StridedLayout& layout, int row_dim, int64_t element_size) {
  const int last = layout.num_dims - 1;
  TransposePlan plan;
  plan.rows = layout.sizes[row_dim];
  plan.columns = layout.sizes[last];
  plan.src_row_stride = layout.strides[row_dim];
  plan.src_column_stride = layout.strides[last];
  plan.matrices.num_dims = 0;
  plan.inner_matrices = 1;
  int64_t num_matrices = 1;
  for (int dim = 0; dim < last; ++dim) {
    if (dim == row_dim) {
      continue;
    }
    plan.matrices.sizes[plan.matrices.num_dims] = layout.sizes[dim];
    plan.matrices.strides[plan.matrices.num_dims] = layout.strides[dim];
    plan.matrices.num_dims += 1;
    plan.inner_matrices *= dim > row_dim ? layout.sizes[dim] : 1;
    num_matrices *= layout.sizes[dim];
  }
  plan.dst_row_stride = plan.inner_matrices * plan.columns;

  // Where the matrix is narrower than a tile in one direction, the tile is longer in the other.
  const auto at_most = [](int64_t size, int64_t most) { return static_cast<int32_t>(size < most ? size : most); };
  const int32_t side = tile_side(element_size);
  const int32_t capacity = tile_capacity(element_size);
  plan.tile_rows = at_most(plan.rows, side);
  plan.tile_columns = at_most(plan.columns, plan.rows < side ? capacity / plan.tile_rows - 2 : side);
  plan.pitch = tile_pitch(plan.tile_columns, element_size);
  plan.tile_rows = at_most(plan.rows, capacity / plan.pitch);
  plan.tiles_down = (plan.rows + plan.tile_rows - 1) / plan.tile_rows;
  plan.tiles_across = (plan.columns + plan.tile_columns - 1) / plan.tile_columns;
  plan.num_tiles = num_matrices * plan.tiles_down * plan.tiles_across;
  return plan;
}

// Tile `index`: across a matrix first, then down it, then the next matrix.
HIGHGRAD_HOST_DEVICE Tile place_tile(const TransposePlan& plan, int64_t index) {
  const int64_t band = index / plan.tiles_across;
  const int64_t first_column = (index - band * plan.tiles_across) * plan.tile_columns;
  const int64_t matrix = band / plan.tiles_down;
  const int64_t first_row = (band - matrix * plan.tiles_down) * plan.tile_rows;
  const int64_t outer = matrix / plan.inner_matrices;
  const int64_t inner = matrix - outer * plan.inner_matrices;

  const int64_t rows_left = plan.rows - first_row;
  const int64_t columns_left = plan.columns - first_column;
  return {
      strided_offset(plan.matrices, plan.matrices.num_dims, matrix) + first_row * plan.src_row_stride +
          first_column * plan.src_column_stride,
      (outer * plan.rows + first_row) * plan.dst_row_stride + inner * plan.columns + first_column,
      static_cast<int32_t>(rows_left < plan.tile_rows ? rows_left : plan.tile_rows),
      static_cast<int32_t>(columns_left < plan.tile_columns ? columns_left : plan.tile_columns)};
}

} // namespace highgrad::ops
