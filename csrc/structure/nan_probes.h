#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "structure/hit_bits.h"
#include "structure/sparsity_pattern.h"

namespace highgrad::structure {

// One batch of probes: probe g has NaN in all rows i with group_of_row[i] == g, zero elsewhere, and marks in `hits` the
// columns where NaN arrives. Returns false if it cannot be run.
using Probe = std::function<bool(const std::vector<int64_t>& group_of_row, HitBits& hits)>;

struct ProbeBudget {
  // Blocks of rows that are probed first.
  int64_t first_blocks = 16;
  // Parts into which a block is split for the next level.
  int64_t split = 4;
  // Given up when all probes together would be more, or when there are more colours.
  int64_t max_probes = 0;
  int64_t max_colors = 0;
  // How many columns may count as full: those that most of the first blocks hit, taken to be nonzero in every row, and
  // left out when blocks are coloured.
  int64_t max_full_columns = 0;
};

struct ProbedPattern {
  SparsityPattern pattern;
  std::vector<int64_t> full_columns;
  int64_t probes = 0;
  int64_t sweeps = 0;
};

// Note [Coarse to fine]
// Blocks of rows are probed, each block by itself. Two blocks that hit a common column conflict: they get different
// colours, each block is split, and the parts of all blocks of one colour are probed together. No column is reached by
// two of them, so every hit is attributed to the one block that has hit that column before; a hit that no block
// explains ends the search. Repeated down to single rows. `row_at` is the order in which rows make up blocks: a
// permutation, or empty for their own order. The result has the rows in their own order.
// None if the Jacobian is too full for the budget, or a probe failed.
std::optional<ProbedPattern> find_pattern(
    int64_t rows,
    int64_t columns,
    const std::vector<int64_t>& row_at,
    const ProbeBudget& budget,
    const Probe& probe);

} // namespace highgrad::structure
