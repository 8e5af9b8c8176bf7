#include "structure/compression.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "structure/passes.h"
#include "structure/picks.h"

namespace highgrad::structure {
namespace {

// Colouring one digit of the output may take so many steps, however small it is.
constexpr int64_t kColoringSteps = int64_t{1} << 16;

// Or so many for each entry.
constexpr int64_t kStepsPerEntry = 64;

int64_t numel_of(const Digits& digits) {
  int64_t numel = 1;
  for (const Digit& digit : digits) {
    numel *= digit.size;
  }
  return numel;
}

// One digit of the output's index, (row / stride) % size, and colours of its values: rows whose values differ, but not
// in colour, share no column.
struct OutputDigit {
  int64_t stride;
  int64_t size;
  Coloring coloring;
};

Coloring one_color(int64_t size) {
  return {std::vector<int64_t>(size, 0), 1};
}

Coloring all_colors(int64_t size) {
  Coloring coloring{std::vector<int64_t>(size), size};
  std::iota(coloring.colors.begin(), coloring.colors.end(), 0);
  return coloring;
}

// The values of the output's digit by the positions of all windows of it.
SparsityPattern pattern_of_windows(int64_t size, const std::vector<const Window*>& windows) {
  std::vector<int64_t> row_of;
  std::vector<int64_t> column_of;
  int64_t columns = 0;
  for (const Window* window : windows) {
    for (const Arc& arc : window->arcs) {
      for (int64_t k = 0; k < arc.count; ++k) {
        row_of.push_back((arc.first + k) % size);
        column_of.push_back(columns);
      }
      ++columns;
    }
  }
  return pattern_of_entries(size, columns, row_of, column_of);
}

// Rows that share an arc lie less than the longest arc apart, on a circle where an arc goes past the end. So many
// colours in turn do, and on a circle those of a power of a cycle. (A. Brandstaedt, V. B. Le, J. P. Spinrad, "Graph
// Classes", section 4.1: circular-arc graphs.)
Coloring color_in_turns(int64_t size, int64_t longest, bool is_circle) {
  const int64_t turns = is_circle ? size / longest : (size + longest - 1) / longest;
  Coloring coloring{std::vector<int64_t>(size), is_circle ? (size + turns - 1) / turns : longest};
  for (int64_t turn = 0; turn < turns; ++turn) {
    const int64_t begin = is_circle ? size * turn / turns : longest * turn;
    const int64_t end = is_circle ? size * (turn + 1) / turns : std::min(size, begin + longest);
    std::iota(coloring.colors.begin() + begin, coloring.colors.begin() + end, 0);
  }
  return coloring;
}

Coloring color(int64_t size, const std::vector<const Window*>& windows) {
  int64_t longest = 1;
  int64_t work = size;
  bool is_circle = false;
  for (const Window* window : windows) {
    for (const Arc& arc : window->arcs) {
      longest = std::max(longest, arc.count);
      work += arc.count * arc.count;
      is_circle |= arc.first + arc.count > size;
    }
  }
  Coloring turns = color_in_turns(size, std::min(longest, size), is_circle);
  if (turns.num_colors <= longest || work > kColoringSteps) {
    return turns;
  }
  const SparsityPattern pattern = pattern_of_windows(size, windows);
  std::optional<Coloring> other = color_rows(pattern, transpose(pattern), kColoringSteps);
  return other.has_value() && other->num_colors < turns.num_colors ? std::move(*other) : turns;
}

// The positions of a window, of which two that reach a common value differ in colour.
Coloring color_positions(const Window& window) {
  const SparsityPattern values = pattern_of_windows(window.size, {&window});
  const SparsityPattern positions = transpose(values);
  return color_rows(positions, values, std::max(kColoringSteps, kStepsPerEntry * values.nnz()))
      .value_or(all_colors(positions.rows));
}

// Where the digits that inputs are tied to begin and end: divisors of `rows`, ascending, each of the next. None if they
// do not line up.
std::optional<std::vector<int64_t>> find_cuts(int64_t rows, const std::vector<Digits>& inputs) {
  std::vector<int64_t> cuts{1, rows};
  for (const Digits& input : inputs) {
    for (const Digit& digit : input) {
      if (!digit.is_free()) {
        cuts.push_back(digit.stride);
        cuts.push_back(digit.stride * digit.out_size());
      }
    }
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  for (size_t k = 1; k < cuts.size(); ++k) {
    if (cuts[k] % cuts[k - 1] != 0) {
      return std::nullopt;
    }
  }
  return cuts.back() == rows ? std::optional(std::move(cuts)) : std::nullopt;
}

// What tells values of the output's digit apart in `input`: a window of it, or null for digits that are equal. None
// where all of them may share a column.
std::optional<const Window*> tie_of(const Digits& input, int64_t stride, int64_t size) {
  std::optional<const Window*> found;
  for (const Digit& digit : input) {
    const int64_t reach = digit.is_free() ? 0 : digit.stride * digit.out_size();
    if (digit.is_equal() && digit.stride <= stride && reach >= stride * size) {
      return nullptr;
    }
    // Of several, that of most positions.
    if (digit.window != nullptr && digit.stride == stride && reach == stride * size &&
        (!found.has_value() || (*found)->arcs.size() < digit.window->arcs.size())) {
      found = digit.window.get();
    }
  }
  return found;
}

// The digits of the output's index, least significant first.
std::vector<OutputDigit> color_output(int64_t rows, const std::vector<Digits>& inputs) {
  const auto cuts = find_cuts(rows, inputs);
  if (!cuts.has_value()) {
    return {{1, rows, all_colors(rows)}};
  }
  std::vector<OutputDigit> digits;
  for (size_t k = 1; k < cuts->size(); ++k) {
    const int64_t stride = (*cuts)[k - 1];
    const int64_t size = (*cuts)[k] / stride;
    bool is_free = false;
    std::vector<const Window*> windows;
    for (const Digits& input : inputs) {
      const auto tie = tie_of(input, stride, size);
      is_free |= !tie.has_value();
      if (tie.has_value() && *tie != nullptr) {
        windows.push_back(*tie);
      }
    }
    digits.push_back({stride, size, {}});
    digits.back().coloring = is_free ? all_colors(size) : windows.empty() ? one_color(size) : color(size, windows);
  }
  return digits;
}

int64_t count_colors(const std::vector<OutputDigit>& digits) {
  int64_t count = 1;
  for (const OutputDigit& digit : digits) {
    count *= digit.coloring.num_colors;
  }
  return count;
}

Coloring coloring_of_rows(int64_t rows, const std::vector<OutputDigit>& digits) {
  Coloring all{std::vector<int64_t>(rows, 0), 1};
  for (const OutputDigit& digit : digits) {
    if (digit.coloring.num_colors > 1) {
      for (int64_t row = 0; row < rows; ++row) {
        all.colors[row] += all.num_colors * digit.coloring.colors[row / digit.stride % digit.size];
      }
      all.num_colors *= digit.coloring.num_colors;
    }
  }
  return all;
}

// The colours of each digit's values, where columns whose values differ, but not in colour, share no row; by input.
std::vector<std::vector<Coloring>> color_inputs(const std::vector<Digits>& inputs) {
  std::vector<std::vector<Coloring>> all;
  for (const Digits& input : inputs) {
    all.emplace_back();
    for (const Digit& digit : input) {
      all.back().push_back(
          digit.is_free()        ? all_colors(digit.size)
              : digit.is_equal() ? one_color(digit.size)
                                 : color_positions(*digit.window));
    }
  }
  return all;
}

// Columns of different inputs differ in colour.
int64_t count_colors(const std::vector<std::vector<Coloring>>& inputs) {
  int64_t count = 0;
  for (const std::vector<Coloring>& digits : inputs) {
    int64_t product = 1;
    for (const Coloring& digit : digits) {
      product *= digit.num_colors;
    }
    count += product;
  }
  return count;
}

Coloring coloring_of_columns(const std::vector<std::vector<Coloring>>& inputs) {
  Coloring all;
  for (const std::vector<Coloring>& digits : inputs) {
    Coloring of_input{{0}, 1};
    for (const Coloring& digit : digits) {
      std::vector<int64_t> colors;
      colors.reserve(of_input.colors.size() * digit.colors.size());
      for (const int64_t above : of_input.colors) {
        for (const int64_t below : digit.colors) {
          colors.push_back(above * digit.num_colors + below);
        }
      }
      of_input = {std::move(colors), of_input.num_colors * digit.num_colors};
    }
    for (const int64_t color : of_input.colors) {
      all.colors.push_back(all.num_colors + color);
    }
    all.num_colors += of_input.num_colors;
  }
  return all;
}

// What one digit of an input adds to the columns of a row.
class DigitColumns {
 public:
  // `place` is the digit's value in the input's index.
  DigitColumns(const Digit& digit, int64_t place) : digit_(digit), place_(place) {
    if (digit.is_free()) {
      values_.rows = 1;
      values_.col_ind.resize(digit.size);
      std::iota(values_.col_ind.begin(), values_.col_ind.end(), 0);
      values_.row_ptr.push_back(digit.size);
    } else if (digit.window != nullptr) {
      values_ = pattern_of_windows(digit.out_size(), {digit.window.get()});
    }
  }

  // Each column once for every value that the row allows, ascending if they are.
  void append(int64_t row, const std::vector<int64_t>& columns, std::vector<int64_t>& to) const {
    if (digit_.is_equal()) {
      const int64_t value = row / digit_.stride % digit_.size * place_;
      for (const int64_t column : columns) {
        to.push_back(column + value);
      }
      return;
    }
    const int64_t of_output = digit_.is_free() ? 0 : row / digit_.stride % values_.rows;
    const int64_t* begin = values_.col_ind.data() + values_.row_ptr[of_output];
    const int64_t* end = values_.col_ind.data() + values_.row_ptr[of_output + 1];
    for (const int64_t column : columns) {
      for (const int64_t* value = begin; value != end; ++value) {
        to.push_back(column + *value * place_);
      }
    }
  }

 private:
  const Digit& digit_;
  int64_t place_;
  SparsityPattern values_; // of this digit, for each value of the output's; in one row, if it is free
};

SparsityPattern pattern_of(int64_t rows, const std::vector<Digits>& inputs) {
  std::vector<std::vector<DigitColumns>> digits;
  std::vector<int64_t> first_column{0};
  for (const Digits& input : inputs) {
    int64_t place = numel_of(input);
    first_column.push_back(first_column.back() + place);
    digits.emplace_back();
    for (const Digit& digit : input) {
      place /= digit.size;
      digits.back().emplace_back(digit, place);
    }
  }
  SparsityPattern pattern{rows, first_column.back(), {0}, {}};
  pattern.row_ptr.reserve(rows + 1);
  std::vector<int64_t> columns;
  std::vector<int64_t> next;
  for (int64_t row = 0; row < rows; ++row) {
    for (size_t j = 0; j < inputs.size(); ++j) {
      columns.assign(1, first_column[j]);
      for (size_t k = 0; k < digits[j].size(); ++k) {
        const bool is_last = k + 1 == digits[j].size();
        next.clear();
        digits[j][k].append(row, columns, is_last ? pattern.col_ind : next);
        columns.swap(next);
      }
      if (digits[j].empty()) {
        pattern.col_ind.push_back(first_column[j]);
      }
    }
    pattern.row_ptr.push_back(pattern.nnz());
  }
  return pattern;
}

} // namespace

int64_t colors_of_ties(int64_t rows, const std::vector<Digits>& inputs) {
  return count_colors(color_output(rows, inputs));
}

double entries_of_ties(int64_t rows, const std::vector<Digits>& inputs) {
  double entries = 0;
  for (const Digits& input : inputs) {
    auto of_input = static_cast<double>(rows);
    for (const Digit& digit : input) {
      if (digit.is_free()) {
        of_input *= static_cast<double>(digit.size);
      } else if (digit.window != nullptr) {
        double reached = 0;
        for (const Arc& arc : digit.window->arcs) {
          reached += static_cast<double>(arc.count);
        }
        of_input *= reached / static_cast<double>(digit.window->size);
      }
    }
    entries += of_input;
  }
  return entries;
}

std::optional<Compression> compression_of_ties(
    int64_t rows,
    const std::vector<Digits>& inputs,
    const ColoringLimits& limits,
    double most) {
  Compression result;
  result.is_global = true;
  const std::vector<OutputDigit> output = color_output(rows, inputs);
  std::vector<std::vector<Coloring>> columns;
  auto cost = static_cast<double>(count_colors(output));
  if (limits.may_use_columns) {
    columns = color_inputs(inputs);
    const double of_columns = limits.cost_of_columns(count_colors(columns));
    result.by_columns = of_columns < cost;
    cost = std::min(cost, of_columns);
  }
  if (cost > most) {
    return std::nullopt;
  }
  result.coloring = result.by_columns ? coloring_of_columns(columns) : coloring_of_rows(rows, output);
  result.pattern = pattern_of(rows, inputs);
  return result;
}

bool operator==(const Compression& a, const Compression& b) {
  return a.signature == b.signature && a.is_global == b.is_global && a.by_columns == b.by_columns &&
      a.coloring.colors == b.coloring.colors && a.full_columns == b.full_columns && a.pattern == b.pattern &&
      same_indices(a.indices, b.indices);
}

} // namespace highgrad::structure
