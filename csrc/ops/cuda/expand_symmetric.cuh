#pragma once

#include "ops/cuda/element.cuh"
#include "ops/cuda/launch.h"
#include "ops/launch_plan.h"
#include "ops/symmetric_tiles.h"

namespace highgrad::ops::cuda {

// Note [Symmetric tiles]
// Of rows that are long in every dimension, a block does a tile of the first and the last index, and its mirror image,
// for all permutations of the other indices. All hold the same entries, which lie close together along the smaller of
// the two indices, so they are read and written in whole sectors by way of shared memory, and read once. What each
// index adds to the rank is found once for the tile (pair_term).
//
// Element [a, z] of a tile, a <= z, is at values[z * kTilePitch + a]. A thread has one `a` or one `z` and every
// kTileRows-th of the other.
constexpr int kTilePitch = kSymmetricTile + 1;
constexpr int kTileRows = kBlockThreads / kSymmetricTile;
constexpr int kTileItems = kSymmetricTile / kTileRows;

// Whether the first index is below the last everywhere in the tile.
__device__ inline bool is_off_diagonal(const SymmetricTile& tile) {
  return tile.first_a != tile.first_z;
}

// full: [rows, size^order]. packed: [rows, packed]. A tile of every `lanes`-th row, then a grid further on. Tiles and
// their mirror images are disjoint, so every element is written by one thread, once.
template <typename element_t>
__global__ void __launch_bounds__(kBlockThreads, 4) expand_tiles_kernel(
    element_t* __restrict__ full,
    const element_t* __restrict__ packed,
    SymmetricLayout layout,
    SymmetricTiles tiles) {
  __shared__ element_t values[kSymmetricTile * kTilePitch];
  __shared__ SymmetricTile tile;
  __shared__ int64_t as_smaller[kSymmetricTile];
  __shared__ int64_t as_larger[kSymmetricTile];
  constexpr int kLoads = sizeof(element_t) <= 8 ? kTileItems : kTileItems / 2; // at once, as many as registers hold
  const int fast = threadIdx.x % kSymmetricTile;
  const int slow = threadIdx.x / kSymmetricTile;
  const int64_t step = kTileRows * tiles.outer_stride;
  const int others = layout.order - 2;
#pragma unroll 1
  for (int64_t index = blockIdx.x; index < tiles.in_row * layout.lanes; index += gridDim.x) {
    if (threadIdx.x == 0) {
      tile = place_symmetric_tile(tiles, index, layout.size, layout.order);
    }
    __syncthreads();
    const int size_z = static_cast<int>(tile.size_z);
    const int64_t first_row = size_z > 0 ? tile.lane : layout.rows;
    const bool is_ahead = is_off_diagonal(tile);
    const int64_t upper = (tile.first_a + slow) * tiles.outer_stride + tile.first_z + fast;
    const int64_t lower = (tile.first_z + slow) * tiles.outer_stride + tile.first_a + fast;
    if (size_z > 0 && threadIdx.x < 2 * kSymmetricTile) {
      const bool is_larger = threadIdx.x >= kSymmetricTile;
      const int64_t value = (is_larger ? tile.first_z : tile.first_a) + fast;
      (is_larger ? as_larger : as_smaller)[fast] = pair_term({tile.middle, tiles.width}, others, value, is_larger);
    }
    __syncthreads();
#pragma unroll 1
    for (int64_t row = first_row; row < layout.rows; row += layout.lanes) {
      const element_t* from = packed + row * layout.packed + as_smaller[fast];
#pragma unroll
      for (int first = 0; first < kTileItems; first += kLoads) {
        element_t read[kLoads];
#pragma unroll
        for (int k = 0; k < kLoads; ++k) {
          const int z = slow + (first + k) * kTileRows;
          if (z < size_z && (is_ahead || fast <= z)) {
            read[k] = from[as_larger[z]];
          }
        }
#pragma unroll
        for (int k = 0; k < kLoads; ++k) {
          const int z = slow + (first + k) * kTileRows;
          if (z < size_z && (is_ahead || fast <= z)) {
            values[z * kTilePitch + fast] = read[k];
          }
        }
      }
      __syncthreads();
      MultiIndex middle{tile.middle, tiles.width};
#pragma unroll 1
      do {
        element_t* to = full + row * layout.full + join_index(middle, layout.size, others) * layout.size;
        element_t* to_upper = to + upper;
        element_t* to_lower = to + lower;
#pragma unroll(kLoads)
        for (int k = 0; k < kTileItems; ++k) {
          const int other = slow + k * kTileRows;
          if (fast < size_z && (is_ahead || other <= fast)) {
            *to_upper = values[fast * kTilePitch + other];
          }
          to_upper += step;
        }
#pragma unroll(kLoads)
        for (int k = 0; k < kTileItems; ++k) {
          const int other = slow + k * kTileRows;
          if (other < size_z && (is_ahead || fast < other)) {
            *to_lower = values[other * kTilePitch + fast];
          }
          to_lower += step;
        }
      } while (next_permutation(middle, others));
      __syncthreads();
    }
  }
}

// The same of rows that are short in every dimension. One thread a column of the last indices and kExpandValues values
// of the first, of every `lanes`-th row, then a grid further on: it finds where these elements come from once.
// Neighbouring threads have neighbouring elements of `full`, each written by one thread, once.
template <typename element_t>
__global__ void expand_columns_kernel(
    element_t* __restrict__ full,
    const element_t* __restrict__ packed,
    SymmetricLayout layout,
    SymmetricColumns plan) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int others = layout.order - 1;
  __shared__ int64_t terms[kMostShortTerms];
#pragma unroll 1
  for (int i = threadIdx.x; i < layout.order * static_cast<int>(layout.size); i += kBlockThreads) {
    const int k = i / static_cast<int>(layout.size);
    terms[i] = binomial_in<unsigned int>(i - k * static_cast<int>(layout.size) + k, k + 1);
  }
  __syncthreads();
#pragma unroll 1
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < layout.lanes * plan.threads;
       item += stride) {
    const int64_t lane = item / plan.threads;
    const int64_t group = (item - lane * plan.threads) / plan.columns;
    const int64_t column = item - lane * plan.threads - group * plan.columns;
    MultiIndex sorted = split_index(column, layout.size, others, plan.width);
    sort_digits(sorted, others);
    InsertedRank rank = start_inserting(sorted, others, terms, layout.size);
    int64_t ranks[kExpandValues];
    const int64_t first = group * plan.values;
    const auto in_group = static_cast<int>(layout.size - first < plan.values ? layout.size - first : plan.values);
#pragma unroll
    for (int k = 0; k < kExpandValues; ++k) {
      ranks[k] = k < in_group ? insert(rank, sorted, others, terms, layout.size, first + k) : 0;
    }
#pragma unroll 1
    for (int64_t row = lane; row < layout.rows; row += layout.lanes) {
      const element_t* from = packed + row * layout.packed;
      element_t* to = full + row * layout.full + first * plan.columns + column;
#pragma unroll
      for (int k = 0; k < kExpandValues; ++k) {
        if (k < in_group) {
          to[k * plan.columns] = from[ranks[k]];
        }
      }
    }
  }
}

// Sums are in float where elements are shorter, as on the CPU.
template <typename element_t>
using Sum = std::conditional_t<sizeof(element_t) == 2, float, element_t>;

template <typename real_t>
__device__ real_t plus(real_t a, real_t b) {
  return a + b;
}

template <typename real_t>
__device__ Complex<real_t> plus(Complex<real_t> a, Complex<real_t> b) {
  return {a.real + b.real, a.imag + b.imag};
}

template <typename element_t>
__device__ Sum<element_t> plus_element(Sum<element_t> sum, element_t value) {
  return plus(sum, Convert<Sum<element_t>, element_t>::apply(value));
}

// The adjoint of expand_tiles_kernel, of order 2: every entry is the sum of an element and its mirror image. The tile
// comes by way of shared memory, its mirror image as the threads need it; both are read at once.
template <typename element_t>
__global__ void __launch_bounds__(kBlockThreads, 4) fold_tiles_kernel(
    element_t* __restrict__ packed,
    const element_t* __restrict__ full,
    SymmetricLayout layout,
    SymmetricTiles tiles) {
  __shared__ element_t values[kSymmetricTile * kTilePitch];
  __shared__ SymmetricTile tile;
  const int fast = threadIdx.x % kSymmetricTile;
  const int slow = threadIdx.x / kSymmetricTile;
#pragma unroll 1
  for (int64_t index = blockIdx.x; index < tiles.in_row * layout.lanes; index += gridDim.x) {
    if (threadIdx.x == 0) {
      tile = place_symmetric_tile(tiles, index, layout.size, 2);
    }
    __syncthreads();
    const bool is_ahead = is_off_diagonal(tile);
    const int size_z = static_cast<int>(tile.size_z);
    const int64_t step = kTileRows * layout.size;
    const int64_t upper = (tile.first_a + slow) * layout.size + tile.first_z + fast;
    const int64_t lower = (tile.first_z + slow) * layout.size + tile.first_a + fast;
#pragma unroll 1
    for (int64_t row = tile.lane; row < layout.rows; row += layout.lanes) {
      const element_t* from_upper = full + row * layout.full + upper;
      const element_t* from_lower = full + row * layout.full + lower;
      element_t read[kTileItems];
      element_t mirrored[kTileItems];
#pragma unroll
      for (int k = 0; k < kTileItems; ++k) {
        const int other = slow + k * kTileRows;
        if (fast < size_z && (is_ahead || other <= fast)) {
          read[k] = *from_upper;
        }
        if (other < size_z && (is_ahead || fast < other)) {
          mirrored[k] = *from_lower;
        }
        from_upper += step;
        from_lower += step;
      }
#pragma unroll
      for (int k = 0; k < kTileItems; ++k) {
        const int other = slow + k * kTileRows;
        if (fast < size_z && (is_ahead || other <= fast)) {
          values[fast * kTilePitch + other] = read[k];
        }
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kTileItems; ++k) {
        const int z = slow + k * kTileRows;
        if (z < size_z && (is_ahead || fast <= z)) {
          Sum<element_t> sum = plus_element<element_t>(Sum<element_t>{}, values[z * kTilePitch + fast]);
          if (is_ahead || fast < z) {
            sum = plus_element<element_t>(sum, mirrored[k]);
          }
          packed[row * layout.packed + rank_term(tile.first_z + z, 1) + tile.first_a + fast] =
              Convert<element_t, Sum<element_t>>::apply(sum);
        }
      }
      __syncthreads();
    }
  }
}

// The adjoint of order 3, where rows are long: one thread an entry, which it adds the permutations of in the CPU's
// order. The threads of a block have neighbours in all three digits, so that they use up the sectors that they read.
// Every element is written by one thread, once; the barriers part the writes to shared memory from the reads.
template <typename element_t>
__global__ void __launch_bounds__(kBlockThreads, 4) fold_bricks_kernel(
    element_t* __restrict__ packed,
    const element_t* __restrict__ full,
    SymmetricLayout layout,
    SymmetricCubes bricks) {
  __shared__ SymmetricBrick brick;
  constexpr int kLoads = sizeof(element_t) <= 8 ? 6 : 3; // at once, as many as registers hold
  const int64_t size = layout.size;
#pragma unroll 1
  for (int64_t index = blockIdx.x; index < brick_blocks(bricks) * layout.lanes; index += gridDim.x) {
    if (threadIdx.x == 0) {
      brick = place_symmetric_brick(bricks, index);
    }
    __syncthreads();
    const int64_t i = brick.i + threadIdx.x % kSymmetricBrick;
    const int64_t j = brick.j + threadIdx.x / kSymmetricBrick % kBrickRows;
    const int64_t k = brick.k + threadIdx.x / (kSymmetricBrick * kBrickRows);
    if (i <= j && j <= k && k < size) {
      const int64_t rank = rank_term(k, 2) + rank_term(j, 1) + i;
      const int64_t columns[6] = {
          (i * size + j) * size + k,
          (i * size + k) * size + j,
          (j * size + i) * size + k,
          (j * size + k) * size + i,
          (k * size + i) * size + j,
          (k * size + j) * size + i};
      // Which of them are no repetition of one before.
      const bool is_new[6] = {true, j < k, i < j, i < j, j < k, i < j && j < k};
#pragma unroll 1
      for (int64_t row = brick.lane; row < layout.rows; row += layout.lanes) {
        const element_t* from = full + row * layout.full;
        Sum<element_t> sum{};
#pragma unroll
        for (int first = 0; first < 6; first += kLoads) {
          element_t values[kLoads];
#pragma unroll
          for (int p = 0; p < kLoads; ++p) {
            if (is_new[first + p]) {
              values[p] = from[columns[first + p]];
            }
          }
#pragma unroll
          for (int p = 0; p < kLoads; ++p) {
            if (is_new[first + p]) {
              sum = plus_element<element_t>(sum, values[p]);
            }
          }
        }
        packed[row * layout.packed + rank] = Convert<element_t, Sum<element_t>>::apply(sum);
      }
    }
    __syncthreads();
  }
}

// Rows that share the steps from one permutation to the next: as many as registers hold.
template <typename element_t>
constexpr int kFoldRows = sizeof(element_t) <= 8 ? 4 : 2;

// The adjoint of any order. One thread a place of every `lanes`-th row, then a grid further on: it adds the
// permutations of its entry's multi-index in the CPU's order. Neighbouring threads have neighbouring elements of
// `packed`, or see Note [Groups of the largest digit]; each is written by one thread, once.
template <typename element_t>
__global__ void __launch_bounds__(kBlockThreads, 4) fold_entries_kernel(
    element_t* __restrict__ packed,
    const element_t* __restrict__ full,
    SymmetricLayout layout,
    SymmetricGroups groups) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t items = layout.lanes * groups.in_row;
  const int64_t step = layout.lanes * layout.full;
  constexpr int kRows = kFoldRows<element_t>;
#pragma unroll 1
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < items; item += threads) {
    const int64_t lane = item / groups.in_row;
    const int64_t rank = grouped_rank(item - lane * groups.in_row, groups, layout.size, layout.order);
    if (rank < 0) {
      continue;
    }
    const MultiIndex sorted = unrank(rank, layout.size, layout.order, groups.width);
#pragma unroll 1
    for (int64_t first_row = lane; first_row < layout.rows; first_row += kRows * layout.lanes) {
      Sum<element_t> sums[kRows] = {};
      int rows = 1; // that there are
#pragma unroll
      for (int k = 1; k < kRows; ++k) {
        rows += first_row + k * layout.lanes < layout.rows;
      }
      const element_t* from = full + first_row * layout.full;
      const auto read = [&](element_t* values, int64_t column) {
        const element_t* place = from + column;
#pragma unroll
        for (int k = 0; k < kRows; ++k) {
          if (k < rows) {
            values[k] = *place;
          }
          place += step;
        }
      };
      const auto add = [&](const element_t* values) {
#pragma unroll
        for (int k = 0; k < kRows; ++k) {
          if (k < rows) {
            sums[k] = plus_element<element_t>(sums[k], values[k]);
          }
        }
      };
      MultiIndex index = sorted;
#pragma unroll 1
      do {
        const int64_t column = join_index(index, layout.size, layout.order);
        // Every other step exchanges the last two digits: both are read at once.
        const int64_t rise = digit(index, layout.order - 1) - digit(index, layout.order - 2);
        element_t values[kRows];
        element_t exchanged[kRows];
        read(values, column);
        if (rise > 0) {
          read(exchanged, column + rise * (layout.size - 1));
        }
        add(values);
        if (rise > 0) {
          add(exchanged);
          swap_digits(index, layout.order - 2, layout.order - 1);
        }
      } while (next_permutation(index, layout.order));
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
        if (k < rows) {
          packed[(first_row + k * layout.lanes) * layout.packed + rank] =
              Convert<element_t, Sum<element_t>>::apply(sums[k]);
        }
      }
    }
  }
}

} // namespace highgrad::ops::cuda
