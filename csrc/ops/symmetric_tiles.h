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

// How many blocks do a row.
inline int64_t plan_symmetric_bricks(int64_t size) {
  return packed_size((size + kSymmetricBrick - 1) / kSymmetricBrick, 3) * kBrickBlocks;
}

// What a block does: the first of each digit, in which row.
struct SymmetricBrick {
  int64_t lane;
  int64_t i;
  int64_t j;
  int64_t k;
};

// Block `index` of all lanes: those of a brick one after the other, then those of the next, then those of the next
// lane.
HIGHGRAD_HOST_DEVICE SymmetricBrick place_symmetric_brick(int64_t in_row, int64_t index, int64_t size) {
  const int64_t lane = index / in_row;
  const int64_t across = (size + kSymmetricBrick - 1) / kSymmetricBrick;
  const int64_t number = index - lane * in_row;
  const MultiIndex brick = unrank(number / kBrickBlocks, across, 3, digit_width(across));
  auto part = static_cast<unsigned int>(number % kBrickBlocks);
  const unsigned int i = part % (kSymmetricBrick / kBrickI);
  part /= kSymmetricBrick / kBrickI;
  const unsigned int j = part % (kSymmetricBrick / kBrickJ);
  const unsigned int k = part / (kSymmetricBrick / kBrickJ);
  return {
      lane,
      digit(brick, 0) * kSymmetricBrick + i * kBrickI,
      digit(brick, 1) * kSymmetricBrick + j * kBrickJ,
      digit(brick, 2) * kSymmetricBrick + k * kBrickK};
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

inline int64_t fold_threads(int64_t size, int order, int64_t full, int64_t packed) {
  if (has_fold_bricks(size, order)) {
    return plan_symmetric_bricks(size) * kBlockThreads;
  }
  return has_fold_tiles(size, order) ? tile_threads(size, full) : packed;
}

} // namespace highgrad::ops
