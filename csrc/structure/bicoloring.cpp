#include "structure/bicoloring.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

namespace highgrad::structure {

SparsityPattern without_columns(const SparsityPattern& pattern, const std::vector<int64_t>& columns) {
  std::vector<bool> is_left_out(pattern.columns, false);
  for (const int64_t column : columns) {
    is_left_out[column] = true;
  }
  SparsityPattern rest{pattern.rows, pattern.columns, {0}, {}};
  rest.row_ptr.reserve(pattern.rows + 1);
  for (int64_t row = 0; row < pattern.rows; ++row) {
    for (int64_t k = pattern.row_ptr[row]; k < pattern.row_ptr[row + 1]; ++k) {
      if (!is_left_out[pattern.col_ind[k]]) {
        rest.col_ind.push_back(pattern.col_ind[k]);
      }
    }
    rest.row_ptr.push_back(rest.nnz());
  }
  return rest;
}

Bicoloring bicolor(const SparsityPattern& pattern, double columns_cost, int64_t max_work) {
  const SparsityPattern transposed = transpose(pattern);
  const auto degree = [&](int64_t column) { return transposed.row_ptr[column + 1] - transposed.row_ptr[column]; };
  std::vector<int64_t> by_degree(pattern.columns);
  std::iota(by_degree.begin(), by_degree.end(), 0);
  std::stable_sort(by_degree.begin(), by_degree.end(), [&](int64_t a, int64_t b) { return degree(a) > degree(b); });

  // Without any colouring, every row has its own.
  Bicoloring best{{}, {std::vector<int64_t>(pattern.rows), pattern.rows}};
  std::iota(best.rows.colors.begin(), best.rows.colors.end(), 0);
  auto best_cost = static_cast<double>(pattern.rows);
  int64_t full = 0;
  int64_t limit = 2 * max_row_degree(transposed) + 1;
  do {
    limit /= 2;
    while (full < pattern.columns && degree(by_degree[full]) > limit) {
      ++full;
    }
    // The column after the full ones forces as many colours as it has entries.
    const double cost_of_columns = columns_cost * static_cast<double>(full);
    const int64_t least = full < pattern.columns ? degree(by_degree[full]) : 0;
    if (cost_of_columns + static_cast<double>(least) >= best_cost) {
      continue;
    }
    std::vector<int64_t> columns(by_degree.begin(), by_degree.begin() + full);
    std::sort(columns.begin(), columns.end());
    const SparsityPattern rest = without_columns(pattern, columns);
    std::optional<Coloring> rows = color_rows(rest, transpose(rest), max_work);
    if (!rows.has_value()) {
      continue;
    }
    const double cost = cost_of_columns + static_cast<double>(rows->num_colors);
    if (cost < best_cost) {
      best_cost = cost;
      best = {std::move(columns), std::move(*rows)};
    }
  } while (limit > 0);
  return best;
}

} // namespace highgrad::structure
