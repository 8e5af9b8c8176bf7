#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "structure/coloring.h"
#include "structure/hit_bits.h"
#include "structure/sparsity_pattern.h"

namespace highgrad::structure {

// One batch of probes: probe g has NaN in all rows i with group_of_row[i] == g, zero elsewhere, and marks in `hits` the
// columns where NaN arrives. Returns false if it cannot be run.
using Probe = std::function<bool(const std::vector<int64_t>& group_of_row, HitBits& hits)>;

struct ProbeBudget {
  // Blocks of rows that are probed first, and with them so many single rows, spread over all: where blocks alone do not
  // promise few colours, these tell whether there is more to find. None: blocks are always refined.
  int64_t first_blocks = 16;
  int64_t samples = 0;
  // Of rows that have been probed by themselves before, the columns of each: no others are then.
  std::vector<std::vector<int64_t>> sampled = {};
  // Before these, so many wider ones, with the samples: where these are not sparse, and all blocks hit nearly all
  // columns, there is nothing to be found. None: the samples are probed with the first blocks.
  int64_t wide_blocks = 0;
  // Parts into which a block is split for the next level.
  int64_t split = 4;
  // All probes together.
  int64_t max_probes = 0;
  // Given up when there are more colours, or when more are to be expected of the first blocks and samples.
  int64_t max_colors = 0;
  // What a sweep takes besides its probes, in probes. Negative: single rows are wanted, or nothing. Otherwise blocks
  // will do, once finer ones cost more, or more than max_probes, than they save.
  double sweep_cost = -1;
  // What an entry of the pattern takes to be handled, in probes.
  double entry_cost = 0;
  // How many columns may count as full: those that most of the first blocks hit, taken to be nonzero in every row, and
  // left out when blocks are coloured.
  int64_t max_full_columns = 0;
};

struct ProbedPattern {
  SparsityPattern pattern;
  std::vector<int64_t> full_columns;
  // Of the rows, where they have all columns of their block: those of a block differ. None for single rows.
  std::optional<Coloring> coloring;
  int64_t probes = 0;
  int64_t sweeps = 0;
};

// Note [Coarse to fine]
// Blocks of rows are probed, each block by itself. Two blocks that hit a common column conflict: they get different
// colours, each block is split, and the parts of all blocks of one colour are probed together. No column is reached by
// two of them, so every hit is attributed to the one block that has hit that column before; a hit that no block
// explains ends the search. Repeated down to single rows, or until finer blocks cost more probes than they save rows
// a pass of their own: a pattern of blocks has all entries, and more. `row_at` is the order in which rows make up
// blocks: a permutation, or empty for their own order. The result has the rows in their own order. None if the Jacobian
// is too full for the budget, or a probe failed.
std::optional<ProbedPattern> find_pattern(
    int64_t rows,
    int64_t columns,
    const std::vector<int64_t>& row_at,
    const ProbeBudget& budget,
    const Probe& probe);

// The entries of `pattern` that a probe for each colour of its rows hits: no column is reached by two rows of a colour.
// None if a probe failed, or has hit what is not in the pattern.
std::optional<SparsityPattern> narrow_pattern(
    const SparsityPattern& pattern,
    const Coloring& coloring,
    const Probe& probe);

} // namespace highgrad::structure
