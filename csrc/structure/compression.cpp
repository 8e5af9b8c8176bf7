#include "structure/compression.h"

#include <algorithm>
#include <utility>

namespace highgrad::structure {
namespace {

int64_t numel_of(const Digits& digits) {
  int64_t numel = 1;
  for (const Digit& digit : digits) {
    numel *= digit.size;
  }
  return numel;
}

// The output's own index: each digit that the input ties is tied to itself, the others are free.
Digits ties_in_output(const Digits& input, int64_t rows) {
  Digits tied;
  for (const Digit& digit : input) {
    if (!digit.is_free()) {
      tied.push_back(digit);
    }
  }
  std::sort(tied.begin(), tied.end(), [](const Digit& a, const Digit& b) { return a.stride > b.stride; });
  Digits result;
  int64_t above = rows; // what the digits so far leave below them
  for (const Digit& digit : tied) {
    const int64_t reach = digit.stride * digit.size;
    if (reach > above || above % reach != 0) {
      return all_free(rows);
    }
    if (above != reach) {
      result.push_back({above / reach, Digit::kFree});
    }
    result.push_back(digit);
    above = digit.stride;
  }
  if (above > 1) {
    result.push_back({above, Digit::kFree});
  }
  return result;
}

Digits ties_of_all(int64_t rows, const std::vector<Digits>& inputs) {
  Digits common = rows == 1 ? Digits{} : Digits{{rows, 1}};
  for (const Digits& input : inputs) {
    common = common_ties(common, ties_in_output(input, rows));
  }
  return common;
}

// A digit with its place value in the index that it is part of.
struct Place {
  Digit digit;
  int64_t value;
};

std::vector<Place> places_of(const Digits& digits) {
  std::vector<Place> places;
  int64_t value = 1;
  for (auto digit = digits.rbegin(); digit != digits.rend(); ++digit) {
    places.push_back({*digit, value});
    value *= digit->size;
  }
  return places;
}

// The columns of one input in every row: first(row), plus each of `offsets`, ascending.
struct RowColumns {
  std::vector<Place> tied;
  std::vector<int64_t> offsets{0};

  explicit RowColumns(const Digits& digits) {
    // From the least significant digit on, so that each further one moves all offsets past those there are.
    for (const Place& place : places_of(digits)) {
      if (!place.digit.is_free()) {
        tied.push_back(place);
        continue;
      }
      const size_t count = offsets.size();
      for (int64_t i = 1; i < place.digit.size; ++i) {
        for (size_t k = 0; k < count; ++k) {
          offsets.push_back(offsets[k] + i * place.value);
        }
      }
    }
  }

  int64_t first(int64_t row) const {
    int64_t column = 0;
    for (const Place& place : tied) {
      column += row / place.digit.stride % place.digit.size * place.value;
    }
    return column;
  }
};

// Rows that differ in a free digit differ in colour.
Coloring coloring_of(const Digits& output, int64_t rows) {
  std::vector<Place> free;
  for (const Place& place : places_of(output)) {
    if (place.digit.is_free()) {
      free.push_back(place);
    }
  }
  Coloring coloring{std::vector<int64_t>(rows), 1};
  for (int64_t row = 0; row < rows; ++row) {
    int64_t color = 0;
    int64_t weight = 1;
    for (const Place& place : free) {
      color += row / place.value % place.digit.size * weight;
      weight *= place.digit.size;
    }
    coloring.colors[row] = color;
    coloring.num_colors = weight;
  }
  return coloring;
}

} // namespace

int64_t rows_a_color(int64_t rows, const std::vector<Digits>& inputs) {
  return tied_size(ties_of_all(rows, inputs));
}

std::optional<Compression> compression_of_ties(int64_t rows, const std::vector<Digits>& inputs) {
  const Digits common = ties_of_all(rows, inputs);
  if (tied_size(common) == 1) {
    return std::nullopt;
  }
  Compression result;
  result.coloring = coloring_of(common, rows);
  result.is_global = true;
  std::vector<RowColumns> columns;
  std::vector<int64_t> first_column{0};
  int64_t row_degree = 0;
  for (const Digits& input : inputs) {
    columns.emplace_back(input);
    first_column.push_back(first_column.back() + numel_of(input));
    row_degree += static_cast<int64_t>(columns.back().offsets.size());
  }
  SparsityPattern& pattern = result.pattern;
  pattern.rows = rows;
  pattern.columns = first_column.back();
  pattern.row_ptr.resize(rows + 1);
  pattern.col_ind.resize(rows * row_degree);
  int64_t* next = pattern.col_ind.data();
  for (int64_t row = 0; row < rows; ++row) {
    for (size_t j = 0; j < inputs.size(); ++j) {
      const int64_t first = first_column[j] + columns[j].first(row);
      for (const int64_t offset : columns[j].offsets) {
        *next++ = first + offset;
      }
    }
    pattern.row_ptr[row + 1] = (row + 1) * row_degree;
  }
  return result;
}

} // namespace highgrad::structure
