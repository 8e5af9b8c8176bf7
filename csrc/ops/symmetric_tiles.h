#pragma once

// How the work on rows of symmetric tensors is dealt to threads. Plain C++, so that it is tested where there is no GPU.

#include "ops/launch_plan.h"
#include "ops/symmetric_index.h"

namespace highgrad::ops {

// Side of a tile; in rows that are shorter in every dimension, tiles would be mostly empty.
constexpr int kSymmetricTile = 32;

// Tiles of the first and the last index of a row, those on or above the diagonal.
struct SymmetricTiles {
  int64_t across; // from end to end
  int64_t matrices; // values of all other indices together
  int64_t in_matrix;
};

// Of a row of `full` elements, of at least two dimensions of `size`.
inline SymmetricTiles plan_symmetric_tiles(int64_t size, int64_t full) {
  const int64_t across = (size + kSymmetricTile - 1) / kSymmetricTile;
  return {across, full / (size * size), packed_size(across, 2)};
}

// One tile, and which matrix it is of.
struct SymmetricTile {
  int64_t lane;
  int64_t middle; // all indices but the first and the last, as one
  int64_t first_a;
  int64_t first_z;
  int size_z; // of the last index. The first has all of a tile's side, but on the diagonal, where it is at most the
              // last
};

// Tile `index` of all lanes: those of one matrix first, then those of the next, then those of the next lane.
HIGHGRAD_HOST_DEVICE SymmetricTile place_symmetric_tile(const SymmetricTiles& tiles, int64_t index, int64_t size) {
  const int64_t matrix = index / tiles.in_matrix;
  const int64_t lane = matrix / tiles.matrices;
  const int width = digit_width(tiles.across);
  const MultiIndex pair = unrank(index - matrix * tiles.in_matrix, tiles.across, 2, width);
  const int64_t first_a = digit(pair, 0) * kSymmetricTile;
  const int64_t first_z = digit(pair, 1) * kSymmetricTile;
  const int64_t left = size - first_z;
  return {
      lane,
      matrix - lane * tiles.matrices,
      first_a,
      first_z,
      static_cast<int>(left < kSymmetricTile ? left : kSymmetricTile)};
}

// Side of a brick of sorted multi-indices of order 3: as many elements of the shortest dtype as a sector of 32 bytes
// holds, so that what one sector holds belongs to one brick, whichever of the three indices is the last of an element.
constexpr int kSymmetricBrick = 16;

// A block of threads does so many of its smallest, middle and largest digit; so many blocks do a brick.
constexpr int kBrickI = 8;
constexpr int kBrickJ = 4;
constexpr int kBrickK = 8;
constexpr int kBrickBlocks = kSymmetricBrick / kBrickI * (kSymmetricBrick / kBrickJ) * (kSymmetricBrick / kBrickK);

// Where rows of a dimension do not start with a sector, neighbouring bricks share sectors. Those of a wall, a cube of
// so many bricks a side, are done together, so that few sectors lie in two walls, and a wall's elements, of all
// permutations, stay in a second-level cache of some megabytes.
struct SymmetricBricks {
  int64_t walls; // of a row
  int64_t across; // walls from end to end
  int32_t side; // bricks
};

HIGHGRAD_HOST_DEVICE constexpr int64_t bricks_in_wall(const SymmetricBricks& plan) {
  return int64_t{plan.side} * plan.side * plan.side;
}

inline SymmetricBricks plan_symmetric_bricks(int64_t size, int64_t element_size) {
  const int32_t side = element_size <= 4 ? 4 : 2;
  const int64_t across = (size + side * kSymmetricBrick - 1) / (side * kSymmetricBrick);
  return {packed_size(across, 3), across, side};
}

// What a block does: the first of each digit, in which row. Blocks of digits that are not sorted have nothing to do.
struct SymmetricBrick {
  int64_t lane;
  int64_t i;
  int64_t j;
  int64_t k;
};

// Block `index` of all lanes: those of a brick one after the other, then those of the next of the wall, then those of
// the next wall, then those of the next lane.
HIGHGRAD_HOST_DEVICE SymmetricBrick place_symmetric_brick(const SymmetricBricks& plan, int64_t index) {
  const int64_t brick = index / kBrickBlocks;
  auto part = static_cast<unsigned int>(index - brick * kBrickBlocks);
  const unsigned int i = part % (kSymmetricBrick / kBrickI);
  part /= kSymmetricBrick / kBrickI;
  const unsigned int j = part % (kSymmetricBrick / kBrickJ);
  const unsigned int k = part / (kSymmetricBrick / kBrickJ);

  const int64_t in_wall = bricks_in_wall(plan);
  const int64_t number = brick / in_wall;
  auto place = static_cast<unsigned int>(brick - number * in_wall);
  const auto side = static_cast<unsigned int>(plan.side);
  const int64_t lane = number / plan.walls;
  const MultiIndex wall = unrank(number - lane * plan.walls, plan.across, 3, digit_width(plan.across));
  const unsigned int brick_i = place % side;
  place /= side;
  const unsigned int brick_j = place % side;
  const unsigned int brick_k = place / side;
  return {
      lane,
      (digit(wall, 0) * plan.side + brick_i) * kSymmetricBrick + i * kBrickI,
      (digit(wall, 1) * plan.side + brick_j) * kSymmetricBrick + j * kBrickJ,
      (digit(wall, 2) * plan.side + brick_k) * kSymmetricBrick + k * kBrickK};
}

// Where there are no tiles, a thread does one column of all indices but the first, and so many values of the first: one
// where there are fewer columns than half a warp has threads, so that neighbours still write neighbouring elements.
constexpr int kExpandValues = 4;

// Most numbers in a table of order x size, where rows are that short: size^order is at most 2^63.
constexpr int kMostShortTerms = 31 * 12;

struct SymmetricColumns {
  int64_t columns;
  int64_t threads; // of a row
  int values;
};

inline SymmetricColumns plan_symmetric_columns(int64_t size, int64_t full) {
  const int64_t columns = full / size;
  const int values = columns < 16 ? 1 : kExpandValues;
  return {columns, (size + values - 1) / values * columns, values};
}

// Which rows of order 2 and above are expanded tile by tile, and how many threads a row takes.
inline bool has_symmetric_tiles(int64_t size, int order) {
  return order >= 2 && size >= kSymmetricTile;
}

inline int64_t tile_threads(int64_t size, int64_t full) {
  const SymmetricTiles tiles = plan_symmetric_tiles(size, full);
  return tiles.in_matrix * tiles.matrices * kBlockThreads;
}

inline int64_t expand_threads(int64_t size, int order, int64_t full) {
  return has_symmetric_tiles(size, order) ? tile_threads(size, full) : plan_symmetric_columns(size, full).threads;
}

// Likewise for the adjoint: tiles of order 2, bricks of order 3, and one thread an entry of all others.
inline bool has_fold_tiles(int64_t size, int order) {
  return order == 2 && has_symmetric_tiles(size, order);
}

inline bool has_fold_bricks(int64_t size, int order) {
  return order == 3 && has_symmetric_tiles(size, order);
}

HIGHGRAD_HOST_DEVICE int64_t brick_blocks(const SymmetricBricks& plan) {
  return plan.walls * bricks_in_wall(plan) * kBrickBlocks;
}

inline int64_t fold_threads(int64_t size, int order, int64_t full, int64_t packed, int64_t element_size) {
  if (has_fold_bricks(size, order)) {
    return brick_blocks(plan_symmetric_bricks(size, element_size)) * kBlockThreads;
  }
  return has_fold_tiles(size, order) ? tile_threads(size, full) : packed;
}

} // namespace highgrad::ops
