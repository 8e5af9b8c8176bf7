#include "structure/star_coloring.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "structure/first_free_color.h"

namespace highgrad::structure {
namespace {

constexpr int64_t kNone = -1;

} // namespace

Coloring star_coloring(const SparsityPattern& pattern) {
  const auto neighbors = [&](int64_t row) {
    return std::pair(pattern.col_ind.data() + pattern.row_ptr[row], pattern.col_ind.data() + pattern.row_ptr[row + 1]);
  };
  const auto for_each = [&](int64_t row, auto&& visit) {
    const auto [begin, end] = neighbors(row);
    std::for_each(begin, end, visit);
  };
  std::vector<int64_t> sequence(pattern.rows);
  std::iota(sequence.begin(), sequence.end(), 0);
  std::stable_sort(sequence.begin(), sequence.end(), [&](int64_t a, int64_t b) {
    return pattern.row_ptr[a + 1] - pattern.row_ptr[a] > pattern.row_ptr[b + 1] - pattern.row_ptr[b];
  });

  Coloring coloring{std::vector<int64_t>(pattern.rows, kNone), 0};
  std::vector<int64_t>& colors = coloring.colors;
  std::vector<int64_t> taken_for;
  const auto forbid = [&](int64_t color, int64_t row) { taken_for[color] = row; };
  for (const int64_t row : sequence) {
    for_each(row, [&](int64_t near) {
      if (near == row) {
        return;
      }
      if (colors[near] != kNone) {
        forbid(colors[near], row);
      }
      for_each(near, [&](int64_t far) {
        if (far == row || far == near || colors[far] == kNone) {
          return;
        }
        if (colors[near] == kNone) {
          // The one between is yet to be coloured: its two ends differ.
          forbid(colors[far], row);
          return;
        }
        for_each(far, [&](int64_t end) {
          if (end != near && end != far && colors[end] == colors[near]) {
            forbid(colors[far], row);
          }
        });
      });
    });
    give_first_free_color(coloring, taken_for, row);
  }
  return coloring;
}

std::vector<int64_t> star_sources(const SparsityPattern& pattern, const Coloring& coloring) {
  const std::vector<int64_t>& colors = coloring.colors;
  // How many neighbours of a row, itself among them, have each colour; counted anew for every row.
  std::vector<int64_t> count(coloring.num_colors, 0);
  std::vector<bool> is_alone(pattern.col_ind.size());
  const auto for_each_entry = [&](int64_t row, auto&& visit) {
    for (int64_t k = pattern.row_ptr[row]; k < pattern.row_ptr[row + 1]; ++k) {
      visit(k, pattern.col_ind[k]);
    }
  };
  for (int64_t row = 0; row < pattern.rows; ++row) {
    for_each_entry(row, [&](int64_t, int64_t column) { ++count[colors[column]]; });
    for_each_entry(row, [&](int64_t k, int64_t column) { is_alone[k] = count[colors[column]] == 1; });
    for_each_entry(row, [&](int64_t, int64_t column) { count[colors[column]] = 0; });
  }
  // By symmetry, column i of the compressed matrix at colour c is the sum of row i's entries in columns of colour c.
  std::vector<int64_t> sources(pattern.col_ind.size());
  for (int64_t row = 0; row < pattern.rows; ++row) {
    for_each_entry(row, [&](int64_t k, int64_t column) {
      if (is_alone[k]) {
        sources[k] = colors[column] * pattern.rows + row;
        return;
      }
      const auto begin = pattern.col_ind.begin() + pattern.row_ptr[column];
      const auto end = pattern.col_ind.begin() + pattern.row_ptr[column + 1];
      const auto twin = std::lower_bound(begin, end, row);
      if (twin == end || *twin != row || !is_alone[twin - pattern.col_ind.begin()]) {
        throw std::invalid_argument("star_sources: expected a symmetric pattern and a star colouring of it");
      }
      sources[k] = colors[row] * pattern.rows + column;
    });
  }
  return sources;
}

} // namespace highgrad::structure
