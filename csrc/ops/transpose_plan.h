#pragma once

// How a block whose source is densest in another dimension than its last is copied, tile by tile. Plain C++, so that it
// is tested where there is no GPU.

#include <algorithm>
#include <cstdint>

#include "ops/divider.h"
#include "ops/index_math.h"

namespace highgrad::ops {

// The two dimensions of a tile: `rows`, in which the source is densest, and `columns`, the last, in which the result
// is contiguous. All others number the matrices that are cut into tiles.
struct TransposePlan {
  Divider sizes[kMaxDims]; // of the other dimensions, the first changing fastest
  int64_t src_strides[kMaxDims];
  uint32_t dst_strides[kMaxDims];
  int32_t num_dims;
  uint32_t rows;
  uint32_t columns;
  int64_t src_row_stride;
  int64_t src_column_stride;
  uint32_t dst_row_stride;
  uint32_t num_tiles; // of all matrices
  Divider in_matrix; // tiles
  Divider in_band;
  Divider band; // tiles from top to bottom
  int32_t log_rows; // of a tile
  int32_t log_columns;
  int32_t pitch; // elements from one row of the tile to the next in shared memory
};

// One tile: where it starts, and how much of it there is, if anything.
struct Tile {
  int64_t src_offset;
  uint32_t dst_offset;
  int32_t rows;
  int32_t columns;
};

// A tile has so many elements a side, or, where a matrix is narrower, more in the other direction: powers of two.
HIGHGRAD_HOST_DEVICE constexpr int32_t log_tile_side(int64_t element_size) {
  return element_size <= 4 ? 6 : 5;
}
constexpr int32_t kMostLogTileSide = 8;

// An odd number of banks (4 bytes; 8 or 16 for elements of that size), so that neither the elements of a row nor those
// of a column share a bank.
HIGHGRAD_HOST_DEVICE constexpr int32_t tile_pitch(int32_t columns, int64_t element_size) {
  return element_size == 2 ? (((columns + 1) / 2) | 1) * 2 : columns | 1;
}

// Elements of shared memory that any tile fits into: the most rows are padded most.
HIGHGRAD_HOST_DEVICE constexpr int32_t tile_capacity(int64_t element_size) {
  return tile_pitch(1 << (2 * log_tile_side(element_size) - kMostLogTileSide), element_size) << kMostLogTileSide;
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

// Matrices of at most so many columns, or elements, need no tiles: what a block of threads copies directly has whole
// rows, or several matrices, and uses up the sectors that it reads.
constexpr int64_t kFewColumns = 4;
constexpr int64_t kSmallMatrix = 256;

inline bool is_transposed(const StridedLayout& layout, int row_dim) {
  const int last = layout.num_dims - 1;
  return row_dim != last && layout.sizes[last] > kFewColumns &&
      layout.sizes[row_dim] * layout.sizes[last] > kSmallMatrix;
}

// Bytes that lie side by side in the source, of one matrix or of several that are done one after the other. Of less,
// the sectors that matrices share would be much of all.
constexpr int64_t kLeastRun = 320;

// Where rows do not start with a sector of memory, it lies in two tiles: side by side in the result, one below the
// other in the source. Bands of at most so many tiles are done together, so that both meet in the second-level cache.
constexpr uint32_t kBandTiles = 8;

// Tiles for `layout`, of fewer than 2^31 elements, whose densest dimension is `row_dim` and not the last, of elements
// of these sizes in bytes.
inline TransposePlan plan_transpose(
    const StridedLayout& layout,
    int row_dim,
    int64_t dst_element_size,
    int64_t src_element_size) {
  const int last = layout.num_dims - 1;
  TransposePlan plan;
  plan.rows = static_cast<uint32_t>(layout.sizes[row_dim]);
  plan.columns = static_cast<uint32_t>(layout.sizes[last]);
  plan.src_row_stride = layout.strides[row_dim];
  plan.src_column_stride = layout.strides[last];

  // Matrices in the result's order.
  plan.num_dims = 0;
  uint32_t num_matrices = 1;
  uint32_t dst_stride = plan.columns;
  for (int dim = last - 1; dim >= 0; --dim) {
    const auto size = static_cast<uint32_t>(layout.sizes[dim]);
    if (dim == row_dim) {
      plan.dst_row_stride = dst_stride;
    } else {
      plan.sizes[plan.num_dims] = make_divider(size);
      plan.src_strides[plan.num_dims] = layout.strides[dim];
      plan.dst_strides[plan.num_dims] = dst_stride;
      plan.num_dims += 1;
      num_matrices *= size;
    }
    dst_stride *= size;
  }
  // Where a matrix has little that lies side by side in the source, those that lie next to it come first.
  int64_t run = plan.rows * src_element_size;
  for (int dim = 0; dim < plan.num_dims && run < kLeastRun; ++dim) {
    int next = dim;
    for (int other = dim + 1; other < plan.num_dims; ++other) {
      const int64_t stride = plan.src_strides[other];
      if (stride != 0 && (plan.src_strides[next] == 0 || stride < plan.src_strides[next])) {
        next = other;
      }
    }
    std::rotate(plan.sizes + dim, plan.sizes + next, plan.sizes + next + 1);
    std::rotate(plan.src_strides + dim, plan.src_strides + next, plan.src_strides + next + 1);
    std::rotate(plan.dst_strides + dim, plan.dst_strides + next, plan.dst_strides + next + 1);
    run *= plan.sizes[dim].divisor;
  }

  // Where the matrix is narrower than a tile in one direction, the tile is longer in the other.
  const int32_t side = log_tile_side(dst_element_size);
  const auto most = [side](int32_t other) {
    return other < side ? std::min(2 * side - other, kMostLogTileSide) : side;
  };
  const auto log_rows = static_cast<int32_t>(make_divider(plan.rows).shift);
  const auto log_columns = static_cast<int32_t>(make_divider(plan.columns).shift);
  plan.log_columns = std::min(log_columns, most(log_rows));
  plan.log_rows = std::min(log_rows, most(plan.log_columns));
  plan.pitch = tile_pitch(1 << plan.log_columns, dst_element_size);

  // Bands are of one height; a matrix may end before its last one does.
  const uint32_t down = ((plan.rows - 1) >> plan.log_rows) + 1;
  const uint32_t across = ((plan.columns - 1) >> plan.log_columns) + 1;
  const uint32_t bands = (down - 1) / kBandTiles + 1;
  plan.band = make_divider((down - 1) / bands + 1);
  plan.in_band = make_divider(plan.band.divisor * across);
  plan.in_matrix = make_divider(plan.in_band.divisor * bands);
  plan.num_tiles = plan.in_matrix.divisor * num_matrices;
  return plan;
}

// Tile `index`: down a band of a matrix first, then across it, then the next band, then the next matrix.
HIGHGRAD_HOST_DEVICE Tile place_tile(const TransposePlan& plan, uint32_t index) {
  uint32_t matrix = index;
  uint32_t band = divide_off(plan.in_matrix, matrix);
  uint32_t across = divide_off(plan.in_band, band);
  const uint32_t down = divide_off(plan.band, across) + band * plan.band.divisor;
  const uint32_t first_row = down << plan.log_rows;
  const uint32_t first_column = across << plan.log_columns;

  int64_t src_offset = first_row * plan.src_row_stride + first_column * plan.src_column_stride;
  uint32_t dst_offset = first_row * plan.dst_row_stride + first_column;
  HIGHGRAD_NO_UNROLL
  for (int dim = 0; dim < plan.num_dims; ++dim) {
    const uint32_t place = divide_off(plan.sizes[dim], matrix);
    src_offset += place * plan.src_strides[dim];
    dst_offset += place * plan.dst_strides[dim];
  }
  const auto at_most = [](uint32_t end, uint32_t first, int32_t most) {
    const auto left = static_cast<int32_t>(end) - static_cast<int32_t>(first);
    return left < most ? left : most;
  };
  return {
      src_offset,
      dst_offset,
      at_most(plan.rows, first_row, 1 << plan.log_rows),
      at_most(plan.columns, first_column, 1 << plan.log_columns)};
}

} // namespace highgrad::ops
