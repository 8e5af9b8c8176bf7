#pragma once

#include <cstdint>
#include <vector>

#include "structure/coloring.h"

namespace highgrad::structure {

// Rows and columns together, for arrow shapes: a few columns that most rows share are computed each by itself, as
// columns, and no longer count as shared by the rows, which are coloured as usual.
struct Bicoloring {
  // Ascending; empty where rows alone are as good.
  std::vector<int64_t> full_columns;
  // Of the rows, over all other columns.
  Coloring rows;
};

// `columns_cost` is what one column costs, in rows. Tries each power of two as the number of entries from which a
// column is full, and takes the cheapest. A greedy colouring may take `max_work` steps.
Bicoloring bicolor(const SparsityPattern& pattern, double columns_cost, int64_t max_work);

// The pattern without the entries of these columns, ascending.
SparsityPattern without_columns(const SparsityPattern& pattern, const std::vector<int64_t>& columns);

} // namespace highgrad::structure
