// Bytes that a second-level cache moves for the walks of csrc/ops/symmetric_tiles.h over one row, without running a
// kernel: the blocks' places are the kernels' own, what a block touches there is written again.

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/symmetric_tiles.h"

using namespace highgrad::ops;

namespace {

// Sectors of 32 bytes, in a cache that forgets what was not used for the longest time.
class Cache {
 public:
  Cache(int64_t sectors, int64_t capacity) : before_(sectors, kNone), after_(sectors, kNone), capacity_(capacity) {}

  void touch(int64_t sector) {
    if (sector == newest_) {
      return;
    }
    if (before_[sector] != kNone || sector == oldest_) {
      take_out(sector);
    } else {
      misses += 1;
      kept_ += 1;
    }
    before_[sector] = newest_;
    (newest_ == kNone ? oldest_ : after_[newest_]) = sector;
    newest_ = sector;
    if (kept_ > capacity_) {
      take_out(oldest_);
      kept_ -= 1;
    }
  }

  int64_t misses = 0;

 private:
  static constexpr int64_t kNone = -1;

  // Of one that is not the newest.
  void take_out(int64_t sector) {
    const int64_t before = before_[sector];
    const int64_t after = after_[sector];
    (before == kNone ? oldest_ : after_[before]) = after;
    before_[after] = before;
    before_[sector] = after_[sector] = kNone;
  }

  std::vector<int64_t> before_, after_;
  int64_t newest_ = kNone, oldest_ = kNone, kept_ = 0, capacity_;
};

// What a block touches: each sector once, first what it loads.
class Walk {
 public:
  Walk(int64_t full, int64_t packed, int64_t element_size, int64_t cache)
      : size_(element_size), first_packed_(sectors(full)), cache_(first_packed_ + sectors(packed), cache / 32) {}

  void full(int64_t element) {
    add(full_, element);
  }

  void packed(int64_t element) {
    add(packed_, element);
  }

  void end_block(bool full_first) {
    if (full_first) {
      use(full_, 0);
    }
    use(packed_, first_packed_);
    use(full_, 0);
  }

  int64_t bytes() const {
    return cache_.misses * 32;
  }

 private:
  int64_t sectors(int64_t elements) const {
    return (elements * size_ + 31) / 32;
  }

  void add(std::vector<int64_t>& touched, int64_t element) {
    const int64_t sector = element * size_ / 32;
    if (touched.empty() || touched.back() != sector) {
      touched.push_back(sector);
    }
  }

  void use(std::vector<int64_t>& touched, int64_t first) {
    std::sort(touched.begin(), touched.end());
    touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
    for (const int64_t sector : touched) {
      cache_.touch(first + sector);
    }
    touched.clear();
  }

  int64_t size_, first_packed_;
  Cache cache_;
  std::vector<int64_t> full_, packed_;
};

struct Shape {
  int64_t size;
  int order;
  int64_t element_size;
  int64_t cache;
  int64_t full;
  int64_t packed;
};

int64_t rank_of(MultiIndex index, int order) {
  sort_digits(index, order);
  int64_t rank = 0;
  for (int k = 0; k < order; ++k) {
    rank += rank_term(digit(index, k), k);
  }
  return rank;
}

void all_permutations(Walk& walk, MultiIndex index, const Shape& shape) {
  do {
    walk.full(join_index(index, shape.size, shape.order));
  } while (next_permutation(index, shape.order));
}

void expand_tiles(Walk& walk, const Shape& shape) {
  const SymmetricTiles tiles = plan_symmetric_tiles(shape.size, shape.order, shape.element_size, shape.cache);
  const int others = shape.order - 2;
  const int64_t outer = shape.full / shape.size;
  for (int64_t index = 0; index < tiles.in_row; ++index) {
    const SymmetricTile tile = place_symmetric_tile(tiles, index, shape.size, shape.order);
    const bool is_ahead = tile.first_a < tile.first_z;
    for (int z = 0; z < tile.size_z; ++z) {
      for (int a = 0; a < (is_ahead ? kSymmetricTile : z + 1); ++a) {
        walk.packed(
            pair_term({tile.middle, tiles.width}, others, tile.first_a + a, false) +
            pair_term({tile.middle, tiles.width}, others, tile.first_z + z, true));
      }
    }
    MultiIndex middle{tile.middle, tiles.width};
    do {
      const int64_t between = join_index(middle, shape.size, others) * shape.size;
      for (int a = 0; a < kSymmetricTile; ++a) {
        for (int z = is_ahead ? 0 : a; z < tile.size_z; ++z) {
          walk.full((tile.first_a + a) * outer + between + tile.first_z + z);
        }
      }
      for (int z = 0; z < tile.size_z; ++z) {
        for (int a = 0; a < (is_ahead ? kSymmetricTile : z); ++a) {
          walk.full((tile.first_z + z) * outer + between + tile.first_a + a);
        }
      }
    } while (next_permutation(middle, others));
    walk.end_block(false);
  }
}

void expand_columns(Walk& walk, const Shape& shape) {
  const SymmetricColumns plan = plan_symmetric_columns(shape.size, shape.full);
  const int width = digit_width(shape.size);
  for (int64_t item = 0; item < plan.threads; ++item) {
    const int64_t first = item / plan.columns * plan.values;
    for (int64_t value = first; value < std::min(shape.size, first + plan.values); ++value) {
      const int64_t element = value * plan.columns + item % plan.columns;
      walk.full(element);
      walk.packed(rank_of(split_index(element, shape.size, shape.order, width), shape.order));
    }
    if ((item + 1) % kBlockThreads == 0) {
      walk.end_block(false);
    }
  }
  walk.end_block(false);
}

void fold_bricks(Walk& walk, const Shape& shape) {
  const SymmetricCubes bricks = plan_symmetric_bricks(shape.size, shape.element_size, shape.cache);
  const int width = digit_width(shape.size);
  for (int64_t index = 0; index < brick_blocks(bricks); ++index) {
    const SymmetricBrick brick = place_symmetric_brick(bricks, index);
    for (int64_t k = brick.k; k < std::min(shape.size, brick.k + kSymmetricBrick); ++k) {
      for (int64_t j = brick.j; j < std::min(k + 1, brick.j + kBrickRows); ++j) {
        for (int64_t i = brick.i; i < std::min(j + 1, brick.i + kSymmetricBrick); ++i) {
          MultiIndex sorted{0, width};
          add_to_digit(sorted, 0, i);
          add_to_digit(sorted, 1, j);
          add_to_digit(sorted, 2, k);
          walk.packed(rank_of(sorted, 3));
          all_permutations(walk, sorted, shape);
        }
      }
    }
    walk.end_block(true);
  }
}

void fold_entries(Walk& walk, const Shape& shape) {
  const SymmetricGroups groups = plan_symmetric_groups(shape.size, shape.order, shape.element_size, shape.cache);
  for (int64_t place = 0; place < groups.in_row; ++place) {
    const int64_t rank = grouped_rank(place, groups, shape.size, shape.order);
    if (rank >= 0) {
      walk.packed(rank);
      all_permutations(walk, unrank(rank, shape.size, shape.order, groups.width), shape);
    }
    if ((place + 1) % kBlockThreads == 0) {
      walk.end_block(true);
    }
  }
  walk.end_block(true);
}

} // namespace

extern "C" int64_t moved_bytes(int is_fold, int64_t size, int order, int64_t element_size, int64_t cache) {
  Shape shape{size, order, element_size, cache, 1, packed_size(size, order)};
  for (int k = 0; k < order; ++k) {
    shape.full *= size;
  }
  Walk walk(shape.full, shape.packed, element_size, cache);
  if (is_fold) {
    (has_fold_bricks(size, order) ? fold_bricks : fold_entries)(walk, shape);
  } else {
    (has_symmetric_tiles(size, order) ? expand_tiles : expand_columns)(walk, shape);
  }
  return walk.bytes();
}
