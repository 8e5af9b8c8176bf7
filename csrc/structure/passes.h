#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "structure/compression.h"

namespace highgrad::structure {

// How many passes it takes, rows and columns together.
int64_t num_passes(const Compression& compression);

// The forward pass of each column, or -1 for one that rows give; without colours where all are.
Coloring column_passes(const Compression& compression);

// What a pass over columns costs, in passes over rows.
constexpr double kColumnCost = 1.5;

// How to colour a pattern.
struct ColoringLimits {
  // Whether columns may be computed, and what recording the graph for them costs, in passes over rows.
  bool may_use_columns = false;
  double recording_cost = 1;
  // What a column costs, in rows.
  double column_cost = kColumnCost;
  // Whether the compression is worth the time that more than one try takes.
  bool is_thorough = false;

  // What so many columns cost, in passes over rows.
  double cost_of_columns(int64_t count) const {
    return count == 0 ? 0 : recording_cost + column_cost * static_cast<double>(count);
  }
  // What any colouring of rows, or of columns, takes at least: entries of one column, or row, share no colour.
  double least_cost_of(const SparsityPattern& pattern) const;
  // What all passes do.
  double cost_of(const Compression& compression) const;
};

// The cheapest colouring of a pattern that is found: by rows, by columns, or by rows but for full columns, of which
// some may be known, and with these a colouring of the rows. None if each takes too many steps. Sets pattern,
// by_columns, coloring and full_columns alone.
std::optional<Compression> color_pattern(
    SparsityPattern pattern,
    std::vector<int64_t> full_columns,
    std::optional<Coloring> rows,
    const ColoringLimits& limits);

} // namespace highgrad::structure
