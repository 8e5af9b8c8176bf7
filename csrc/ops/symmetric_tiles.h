#pragma once

// How the work on rows of symmetric tensors is dealt to threads. Plain C++, so that it is tested where there is no GPU.

#include "ops/divider.h"
#include "ops/launch_plan.h"
#include "ops/symmetric_index.h"

namespace highgrad::ops {

// Note [Cubes of order 3]
// What belongs to a sorted multi-index of order 3, its six elements and its entry, lies in runs along each of the three
// digits. Where a run is cut, two blocks share a sector, which moves twice if it leaves the second-level cache between
// them. So multi-indices are done cube by cube, in the order of packed entries: the smallest digit's next cube comes
// next. The largest digit's comes when all pairs of the two others were done. Where the cache holds what all of them
// need for a cube's values of the third, small cubes cut nothing. Otherwise cubes are as large as the cache allows, and
// the values of the smallest digit go last in each: their runs are then cut nowhere, the two others at every side.
struct SymmetricCubes {
  int64_t across; // cubes from end to end: at most 1500, of tensors that any memory holds
  int64_t in_row;
  Divider side; // in units of the kernel
};

// `unit` values of a digit are what a kernel has at once; `cache` is of so many bytes.
inline SymmetricCubes plan_symmetric_cubes(int64_t size, int64_t unit, int64_t element_size, int64_t cache) {
  const int64_t units = (size + unit - 1) / unit;
  // Of a pair of the two other digits: seven runs, three of which are along the third, and cut.
  const int64_t bytes = 7 * unit * element_size + 3 * 32;
  int64_t side = 1;
  // There are size^2 / 2 pairs at the end, and fewer before.
  if (size * size * 2 / 5 * bytes > cache) {
    while (side < units && (side + 1) * (side + 1) * unit * unit * bytes <= cache) {
      side += 1;
    }
  }
  const int64_t across = (units + side - 1) / side;
  // As large as needed for so many, so that few lie outside of the tensor.
  return {across, packed_size(across, 3), make_divider(static_cast<uint32_t>((units + across - 1) / across))};
}

HIGHGRAD_HOST_DEVICE int64_t units_in_row(const SymmetricCubes& cubes) {
  const int64_t side = cubes.side.divisor;
  return cubes.in_row * side * side * side;
}

// Of the smallest, the middle and the largest digit, and which block of theirs. In cubes on the diagonal they may be
// unsorted, or outside of the tensor.
struct SymmetricUnit {
  int64_t lane;
  int64_t i;
  int64_t j;
  int64_t k;
  unsigned int block;
};

// Block `index` of all lanes, of so many a unit: those of a cube first, then those of the next, then those of the next
// lane.
HIGHGRAD_HOST_DEVICE SymmetricUnit place_symmetric_unit(const SymmetricCubes& cubes, int64_t index, int blocks) {
  const int64_t side = cubes.side.divisor;
  const int64_t in_cube = side * side * side * blocks;
  const int64_t lane = index / (cubes.in_row * in_cube);
  const int64_t in_lane = index - lane * (cubes.in_row * in_cube);
  const int64_t number = in_lane / in_cube;
  auto cube_i = static_cast<uint32_t>(number); // the rank, of which the other digits are taken
  const uint32_t cube_k = take_digit(cube_i, static_cast<uint32_t>(cubes.across - 1), 2);
  const uint32_t cube_j = take_digit(cube_i, cube_k, 1);
  const auto place = static_cast<uint32_t>(in_lane - number * in_cube);
  uint32_t i = place / blocks;
  const uint32_t block = place - i * blocks;
  const uint32_t j = divide_off(cubes.side, i);
  const uint32_t k = divide_off(cubes.side, i);
  return {lane, cube_i * side + i, cube_j * side + j, cube_k * side + k, block};
}

// Side of a tile; in rows that are shorter in every dimension, tiles would be mostly empty.
constexpr int kSymmetricTile = 32;

// Tiles of the first and the last index of a row, those on or above the diagonal, for each sorted multi-index of the
// others. Of order 3 they go by cubes of tiles: one of the three digits is the middle index, of which a block does one
// value, and the others are those of the tile.
struct SymmetricTiles {
  int64_t across; // from end to end
  int64_t in_matrix; // of one multi-index of the others
  int64_t in_row; // blocks, some of which have nothing to do
  SymmetricCubes cubes;
  int64_t outer_stride; // elements from one value of the first index to the next
  int width; // of a digit
};

// Of three tiles: each of the digits is the middle index once.
constexpr int kBlocksInTriple = 3 * kSymmetricTile;

// Of a row of at least two dimensions of `size`.
inline SymmetricTiles plan_symmetric_tiles(int64_t size, int order, int64_t element_size, int64_t cache) {
  const int64_t across = (size + kSymmetricTile - 1) / kSymmetricTile;
  const int64_t in_matrix = packed_size(across, 2);
  int64_t outer_stride = 1;
  for (int k = 1; k < order; ++k) {
    outer_stride *= size;
  }
  if (order != 3) {
    return {across, in_matrix, in_matrix * packed_size(size, order - 2), {}, outer_stride, digit_width(size)};
  }
  const SymmetricCubes cubes = plan_symmetric_cubes(size, kSymmetricTile, element_size, cache);
  return {across, in_matrix, units_in_row(cubes) * kBlocksInTriple, cubes, outer_stride, digit_width(size)};
}

// One tile. The first index has all of a tile's side, but on the diagonal, where it is at most the last.
struct SymmetricTile {
  int64_t lane;
  uint64_t middle; // the word of all indices but the first and the last, sorted
  int64_t first_a;
  int64_t first_z;
  int64_t size_z; // of the last index; 0 where a block has nothing to do
};

HIGHGRAD_HOST_DEVICE SymmetricTile
tile_at(int64_t lane, uint64_t middle, int64_t tile_a, int64_t tile_z, int64_t size) {
  const int64_t first_z = tile_z * kSymmetricTile;
  int64_t size_z = size - first_z;
  if (size_z < 0) {
    size_z = 0;
  } else if (size_z > kSymmetricTile) {
    size_z = kSymmetricTile;
  }
  return {lane, middle, tile_a * kSymmetricTile, first_z, size_z};
}

// Tile `index` of all lanes, of order 3.
HIGHGRAD_HOST_DEVICE SymmetricTile place_tile_of_three(const SymmetricTiles& tiles, int64_t index, int64_t size) {
  const auto [lane, i, j, k, block] = place_symmetric_unit(tiles.cubes, index, kBlocksInTriple);
  const unsigned int role = block / kSymmetricTile; // which of the digits is the middle index
  const int64_t middle = (role == 0 ? i : role == 1 ? j : k) * kSymmetricTile + block % kSymmetricTile;
  // Where two of the digits have the same tile, they are the middle index alike, which is done once.
  const bool is_done = i <= j && j <= k && middle < size && (role == 0 || (role == 1 ? i < j : j < k));
  SymmetricTile tile = tile_at(lane, static_cast<uint64_t>(middle), role == 0 ? j : i, role == 2 ? j : k, size);
  tile.size_z = is_done ? tile.size_z : 0;
  return tile;
}

// Tile `index` of all lanes: those of one matrix first, then those of the next, then those of the next lane.
HIGHGRAD_HOST_DEVICE SymmetricTile
place_symmetric_tile(const SymmetricTiles& tiles, int64_t index, int64_t size, int order) {
  if (order == 3) {
    return place_tile_of_three(tiles, index, size);
  }
  const int64_t lane = index / tiles.in_row;
  int64_t tile_a = index - lane * tiles.in_row; // the rank of the pair, of which the other digit is taken
  uint64_t middle = 0;
  if (order > 2) {
    const int64_t matrix = tile_a / tiles.in_matrix;
    tile_a -= matrix * tiles.in_matrix;
    middle = unrank(matrix, size, order - 2, tiles.width).word;
  }
  const int64_t tile_z = take_digit(tile_a, tiles.across - 1, 1);
  return tile_at(lane, middle, tile_a, tile_z, size);
}

// Side of a brick of sorted multi-indices, and how many of the middle digit's values a block of threads does. It has
// neighbours in all three digits, so that it uses up the sectors that it reads.
constexpr int kSymmetricBrick = 8;
constexpr int kBrickRows = 4;
constexpr int kBlocksInBrick = kSymmetricBrick / kBrickRows;

inline SymmetricCubes plan_symmetric_bricks(int64_t size, int64_t element_size, int64_t cache) {
  return plan_symmetric_cubes(size, kSymmetricBrick, element_size, cache);
}

// What a block does: the first of each digit, in which row. Blocks of digits that are not sorted have nothing to do.
struct SymmetricBrick {
  int64_t lane;
  int64_t i;
  int64_t j;
  int64_t k;
};

HIGHGRAD_HOST_DEVICE SymmetricBrick place_symmetric_brick(const SymmetricCubes& cubes, int64_t index) {
  const SymmetricUnit unit = place_symmetric_unit(cubes, index, kBlocksInBrick);
  return {
      unit.lane,
      unit.i * kSymmetricBrick,
      unit.j * kSymmetricBrick + unit.block * kBrickRows,
      unit.k * kSymmetricBrick};
}

// Note [Groups of the largest digit]
// Elements whose last index is the largest digit share sectors with those of its neighbours, which in the order of
// packed entries come when all that is below was done. Where the second-level cache does not hold that, entries of
// neighbouring largest digits are done together: of a group of them, all that have the same smaller digits, then those
// of the next. A group is as large as the cache allows for the second largest digit, of which the same is true.
// Groups are of order 4 and above: none of the terms is written out.
struct SymmetricGroups {
  int64_t in_row; // places, of which some have nothing to do where groups are of several
  int64_t in_group;
  int64_t group; // largest digits
  int width; // of a digit
};

inline int64_t plan_symmetric_group(int64_t size, int order, int64_t element_size, int64_t cache) {
  if (order < 4) {
    return 1;
  }
  // What an entry takes until its neighbour in one digit comes: sectors where that is the last index, elements else.
  // A double holds it for every order.
  auto bytes = static_cast<double>((order - 1) * element_size + 32);
  for (int k = 2; k < order; ++k) {
    bytes *= k;
  }
  if (static_cast<double>(packed_size(size, order - 1)) * bytes <= static_cast<double>(cache)) {
    return 1;
  }
  const double fits = static_cast<double>(cache) / (static_cast<double>(packed_size(size, order - 2)) * bytes);
  const int64_t in_sector = 32 / element_size;
  return fits < 1 ? 1 : fits < static_cast<double>(in_sector) ? static_cast<int64_t>(fits) : in_sector;
}

inline SymmetricGroups plan_symmetric_groups(int64_t size, int order, int64_t element_size, int64_t cache) {
  const int64_t group = plan_symmetric_group(size, order, element_size, cache);
  if (group == 1) {
    const int64_t packed = packed_size(size, order);
    return {packed, packed, 1, digit_width(size)};
  }
  const int64_t in_group = packed_size(size, order - 1) * group;
  return {(size + group - 1) / group * in_group, in_group, group, digit_width(size)};
}

// The entry at a place, or -1 where there is nothing to do: a largest digit of a group's does not go with smaller ones
// that are above it.
HIGHGRAD_HOST_DEVICE int64_t grouped_rank(int64_t place, const SymmetricGroups& groups, int64_t size, int order) {
  if (groups.group == 1) {
    return place;
  }
  const int64_t number = place / groups.in_group;
  const int64_t in_group = place - number * groups.in_group;
  const int64_t smaller = in_group / groups.group; // the rank of the smaller digits
  const int64_t largest = (number - smaller) * groups.group + in_group;
  const bool is_sorted = largest < size && smaller < later_rank_term(largest + 1, order - 2);
  return is_sorted ? later_rank_term(largest, order - 1) + smaller : -1;
}

// Where there are no tiles, a thread does one column of all indices but the first, and so many values of the first: one
// where there are fewer columns than half a warp has threads, so that neighbours still write neighbouring elements.
constexpr int kExpandValues = 4;

// Most numbers in a table of order x size, where rows are that short: size^order is at most 2^63. Of tensors that any
// memory holds, below 2^48 elements, each is below 2^32 / order.
constexpr int kMostShortTerms = 31 * 12;

struct SymmetricColumns {
  int64_t columns;
  int64_t threads; // of a row
  int values;
  int width; // of a digit
};

inline SymmetricColumns plan_symmetric_columns(int64_t size, int64_t full) {
  const int64_t columns = full / size;
  const int values = columns < 16 ? 1 : kExpandValues;
  return {columns, (size + values - 1) / values * columns, values, digit_width(size)};
}

// Which rows of order 2 and above are expanded tile by tile, and how many threads a row takes.
inline bool has_symmetric_tiles(int64_t size, int order) {
  return order >= 2 && size >= kSymmetricTile;
}

inline int64_t tile_threads(int64_t size, int order, int64_t element_size, int64_t cache) {
  return plan_symmetric_tiles(size, order, element_size, cache).in_row * kBlockThreads;
}

inline int64_t expand_threads(int64_t size, int order, int64_t full, int64_t element_size, int64_t cache) {
  return has_symmetric_tiles(size, order) ? tile_threads(size, order, element_size, cache)
                                          : plan_symmetric_columns(size, full).threads;
}

// Likewise for the adjoint: tiles of order 2, bricks of order 3, and one thread a place of all others.
inline bool has_fold_tiles(int64_t size, int order) {
  return order == 2 && has_symmetric_tiles(size, order);
}

inline bool has_fold_bricks(int64_t size, int order) {
  return order == 3 && has_symmetric_tiles(size, order);
}

HIGHGRAD_HOST_DEVICE int64_t brick_blocks(const SymmetricCubes& cubes) {
  return units_in_row(cubes) * kBlocksInBrick;
}

inline int64_t fold_threads(int64_t size, int order, int64_t element_size, int64_t cache) {
  if (has_fold_bricks(size, order)) {
    return brick_blocks(plan_symmetric_bricks(size, element_size, cache)) * kBlockThreads;
  }
  return has_fold_tiles(size, order) ? tile_threads(size, order, element_size, cache)
                                     : plan_symmetric_groups(size, order, element_size, cache).in_row;
}

} // namespace highgrad::ops
