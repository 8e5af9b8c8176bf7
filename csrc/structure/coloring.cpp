#include "structure/coloring.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace highgrad::structure {
namespace {

// Gives `row` the first colour that is not taken for it, a new one if all are: taken_for[color] is the last row for
// which that colour was found taken, or -1.
void give_first_free_color(Coloring& coloring, std::vector<int64_t>& taken_for, int64_t row) {
  int64_t color = 0;
  while (color < coloring.num_colors && taken_for[color] == row) {
    ++color;
  }
  if (color == coloring.num_colors) {
    ++coloring.num_colors;
    taken_for.push_back(-1);
  }
  coloring.colors[row] = color;
}

constexpr int64_t kNone = -1;

// Bits of colours by columns, and all of them at most.
constexpr int64_t kBits = 64;
constexpr int64_t kMostWords = int64_t{1} << 22;

// Of one order of rows.
constexpr int64_t kMostPasses = 3;

// A row looks at about so many words of each colour.
constexpr int64_t kWordsPerColor = 2;

int64_t work_by_bits(const SparsityPattern& pattern, const SparsityPattern& transposed) {
  return pattern.nnz() + kWordsPerColor * pattern.rows * max_row_degree(transposed);
}

int64_t degree(const SparsityPattern& pattern, int64_t row) {
  return pattern.row_ptr[row + 1] - pattern.row_ptr[row];
}

// Calls visit(other) once for each other row that shares a column with `row`. mark_of(other) is a place that holds the
// last row for which `other` was visited.
template <typename MarkOf, typename Visit>
void for_each_neighbor(
    const SparsityPattern& pattern,
    const SparsityPattern& transposed,
    int64_t row,
    MarkOf&& mark_of,
    Visit&& visit) {
  mark_of(row) = row;
  for (int64_t k = pattern.row_ptr[row]; k < pattern.row_ptr[row + 1]; ++k) {
    const int64_t column = pattern.col_ind[k];
    for (int64_t l = transposed.row_ptr[column]; l < transposed.row_ptr[column + 1]; ++l) {
      const int64_t other = transposed.col_ind[l];
      int64_t& mark = mark_of(other);
      if (mark != row) {
        mark = row;
        visit(other);
      }
    }
  }
}

std::vector<int64_t> neighbor_counts(const SparsityPattern& pattern, const SparsityPattern& transposed) {
  std::vector<int64_t> counts(pattern.rows, 0);
  std::vector<int64_t> marks(pattern.rows, kNone);
  const auto mark_of = [&](int64_t row) -> int64_t& { return marks[row]; };
  for (int64_t row = 0; row < pattern.rows; ++row) {
    for_each_neighbor(pattern, transposed, row, mark_of, [&](int64_t) { ++counts[row]; });
  }
  return counts;
}

// Rows in buckets by a key that changes by one at a time: doubly linked lists. All that is kept of a row lies
// together: of many rows, whose neighbours are far apart, each look costs a cache line.
class Buckets {
 public:
  Buckets(const std::vector<int64_t>& keys, int64_t max_key) : rows_(keys.size()), first_(max_key + 1, kNone) {
    for (auto row = static_cast<int64_t>(keys.size()) - 1; row >= 0; --row) {
      rows_[row].key = keys[row];
      link(row);
    }
  }

  int64_t first(int64_t key) const {
    return first_[key];
  }

  void remove(int64_t row) {
    unlink(row);
    rows_[row].key = kNone;
  }

  // Of the rows that are left and share a column with `row`.
  void change_neighbors(const SparsityPattern& pattern, const SparsityPattern& transposed, int64_t row, int64_t by) {
    const auto mark_of = [&](int64_t other) -> int64_t& { return rows_[other].mark; };
    for_each_neighbor(pattern, transposed, row, mark_of, [&](int64_t other) {
      if (rows_[other].key != kNone) {
        unlink(other);
        rows_[other].key += by;
        link(other);
      }
    });
  }

 private:
  struct Row {
    int64_t key = kNone;
    int64_t next = kNone;
    int64_t previous = kNone;
    int64_t mark = kNone;
  };

  void link(int64_t number) {
    Row& row = rows_[number];
    int64_t& head = first_[row.key];
    row.previous = kNone;
    row.next = head;
    if (head != kNone) {
      rows_[head].previous = number;
    }
    head = number;
  }

  void unlink(int64_t number) {
    const Row& row = rows_[number];
    (row.previous == kNone ? first_[row.key] : rows_[row.previous].next) = row.next;
    if (row.next != kNone) {
      rows_[row.next].previous = row.previous;
    }
  }

  std::vector<Row> rows_;
  std::vector<int64_t> first_;
};

int64_t max_of(const std::vector<int64_t>& counts) {
  return counts.empty() ? 0 : *std::max_element(counts.begin(), counts.end());
}

// The row with the fewest neighbours left is taken out, again and again; coloured in the reverse order.
std::vector<int64_t> smallest_last(
    const SparsityPattern& pattern,
    const SparsityPattern& transposed,
    const std::vector<int64_t>& counts) {
  Buckets buckets(counts, max_of(counts));
  std::vector<int64_t> sequence(pattern.rows);
  int64_t key = 0;
  for (int64_t place = pattern.rows - 1; place >= 0; --place) {
    while (buckets.first(key) == kNone) {
      ++key;
    }
    const int64_t row = buckets.first(key);
    sequence[place] = row;
    buckets.remove(row);
    buckets.change_neighbors(pattern, transposed, row, -1);
    key = std::max<int64_t>(key - 1, 0);
  }
  return sequence;
}

// The row with the most neighbours in the sequence already comes next.
std::vector<int64_t> incidence_degree(
    const SparsityPattern& pattern,
    const SparsityPattern& transposed,
    const std::vector<int64_t>& counts) {
  const int64_t max_count = max_of(counts);
  Buckets buckets(std::vector<int64_t>(pattern.rows, 0), max_count);
  std::vector<int64_t> sequence;
  sequence.reserve(pattern.rows);
  int64_t key = 0;
  while (static_cast<int64_t>(sequence.size()) < pattern.rows) {
    while (buckets.first(key) == kNone) {
      --key;
    }
    const int64_t row = buckets.first(key);
    sequence.push_back(row);
    buckets.remove(row);
    buckets.change_neighbors(pattern, transposed, row, 1);
    key = std::min(key + 1, max_count);
  }
  return sequence;
}

// `counts` are those of neighbours; the natural order needs none.
std::vector<int64_t> sequence_of(
    const SparsityPattern& pattern,
    const SparsityPattern& transposed,
    Order order,
    const std::vector<int64_t>& counts) {
  switch (order) {
    case Order::kSmallestLast:
      return smallest_last(pattern, transposed, counts);
    case Order::kIncidenceDegree:
      return incidence_degree(pattern, transposed, counts);
    default:
      break;
  }
  std::vector<int64_t> sequence(pattern.rows);
  std::iota(sequence.begin(), sequence.end(), 0);
  if (order == Order::kLargestFirst) {
    std::stable_sort(sequence.begin(), sequence.end(), [&](int64_t a, int64_t b) { return counts[a] > counts[b]; });
  }
  return sequence;
}

} // namespace

int64_t greedy_work(const SparsityPattern& transposed) {
  int64_t work = transposed.columns;
  for (int64_t column = 0; column < transposed.rows; ++column) {
    const int64_t size = degree(transposed, column);
    int64_t square = 0;
    if (__builtin_mul_overflow(size, size, &square) || __builtin_add_overflow(work, square, &work)) {
      return std::numeric_limits<int64_t>::max();
    }
  }
  return work;
}

namespace {

bool may_color_by_bits(const SparsityPattern& pattern, const SparsityPattern& transposed) {
  return (pattern.columns / kBits + 1) <= kMostWords / std::max<int64_t>(pattern.rows, 1) &&
      work_by_bits(pattern, transposed) < greedy_work(transposed);
}

// Each colour has the columns of all its rows, as bits: a row takes the first that has none of its own.
Coloring color_by_bits(const SparsityPattern& pattern, const std::vector<int64_t>& sequence) {
  Coloring coloring{std::vector<int64_t>(pattern.rows, kNone), 0};
  const int64_t words = pattern.columns / kBits + 1;
  std::vector<uint64_t> taken;
  std::vector<std::pair<int64_t, uint64_t>> own; // places of words that are not zero, and these
  for (const int64_t row : sequence) {
    own.clear();
    for (int64_t k = pattern.row_ptr[row]; k < pattern.row_ptr[row + 1]; ++k) {
      const int64_t place = pattern.col_ind[k] / kBits;
      if (own.empty() || own.back().first != place) {
        own.emplace_back(place, 0);
      }
      own.back().second |= uint64_t{1} << (pattern.col_ind[k] % kBits);
    }
    int64_t color = 0;
    const auto is_free = [&] {
      const uint64_t* of_color = taken.data() + color * words;
      return std::none_of(own.begin(), own.end(), [&](const auto& word) { return of_color[word.first] & word.second; });
    };
    while (color < coloring.num_colors && !is_free()) {
      ++color;
    }
    if (color == coloring.num_colors) {
      ++coloring.num_colors;
      taken.resize(coloring.num_colors * words, 0);
    }
    for (const auto& [place, word] : own) {
      taken[color * words + place] |= word;
    }
    coloring.colors[row] = color;
  }
  return coloring;
}

Coloring color_in_sequence(
    const SparsityPattern& pattern,
    const SparsityPattern& transposed,
    const std::vector<int64_t>& sequence) {
  if (may_color_by_bits(pattern, transposed)) {
    return color_by_bits(pattern, sequence);
  }
  Coloring coloring{std::vector<int64_t>(pattern.rows, kNone), 0};
  // The last row for which each colour was found taken.
  std::vector<int64_t> taken_for;
  for (const int64_t row : sequence) {
    for (int64_t k = pattern.row_ptr[row]; k < pattern.row_ptr[row + 1]; ++k) {
      const int64_t column = pattern.col_ind[k];
      for (int64_t l = transposed.row_ptr[column]; l < transposed.row_ptr[column + 1]; ++l) {
        const int64_t color = coloring.colors[transposed.col_ind[l]];
        if (color != kNone) {
          taken_for[color] = row;
        }
      }
    }
    give_first_free_color(coloring, taken_for, row);
  }
  return coloring;
}

} // namespace

Coloring greedy_coloring(const SparsityPattern& pattern, const SparsityPattern& transposed, Order order) {
  const auto counts = order == Order::kNatural ? std::vector<int64_t>() : neighbor_counts(pattern, transposed);
  return color_in_sequence(pattern, transposed, sequence_of(pattern, transposed, order, counts));
}

std::optional<Coloring> closed_form_coloring(const SparsityPattern& pattern, const SparsityPattern& transposed) {
  const auto first = [&](int64_t row) { return pattern.col_ind[pattern.row_ptr[row]]; };
  const auto last = [&](int64_t row) { return pattern.col_ind[pattern.row_ptr[row + 1] - 1]; };
  for (int64_t row = 0; row < pattern.rows; ++row) {
    if (degree(pattern, row) == 0 || (row > 0 && (first(row) < first(row - 1) || last(row) < last(row - 1)))) {
      return std::nullopt;
    }
  }
  // Row i may share its colour with row i + turns if that one starts past its end, and then with all later ones.
  int64_t turns = pattern.rows > 0 ? 1 : 0;
  int64_t apart = 0;
  for (int64_t row = 0; row < pattern.rows; ++row) {
    apart = std::max(apart, row + 1);
    while (apart < pattern.rows && first(apart) <= last(row)) {
      ++apart;
    }
    turns = std::max(turns, apart - row);
  }
  if (turns > max_row_degree(transposed)) {
    return std::nullopt;
  }
  Coloring coloring{std::vector<int64_t>(pattern.rows), turns};
  for (int64_t row = 0; row < pattern.rows; ++row) {
    coloring.colors[row] = row % turns;
  }
  return coloring;
}

std::optional<Coloring> color_rows(
    const SparsityPattern& pattern,
    const SparsityPattern& transposed,
    int64_t max_work) {
  std::optional<Coloring> best = closed_form_coloring(pattern, transposed);
  if (best.has_value()) {
    return best;
  }
  const int64_t lower_bound = max_row_degree(transposed);
  const int64_t neighbor_work = std::min(greedy_work(transposed), std::numeric_limits<int64_t>::max() / kMostPasses);
  const int64_t natural_work =
      may_color_by_bits(pattern, transposed) ? work_by_bits(pattern, transposed) : neighbor_work;
  // The orders besides the natural one walk over all neighbours twice, or by buckets, which count as two walks.
  constexpr std::pair<Order, int64_t> kOrders[] = {
      {Order::kNatural, 1}, {Order::kLargestFirst, 2}, {Order::kSmallestLast, 3}, {Order::kIncidenceDegree, 3}};
  std::vector<int64_t> counts;
  for (const auto& [order, passes] : kOrders) {
    const int64_t work = passes == 1 ? natural_work : neighbor_work * passes;
    if (work > max_work) {
      break;
    }
    max_work -= work;
    if (order != Order::kNatural && counts.empty()) {
      counts = neighbor_counts(pattern, transposed);
    }
    const std::vector<int64_t> sequence = sequence_of(pattern, transposed, order, counts);
    if (order == Order::kLargestFirst && std::is_sorted(sequence.begin(), sequence.end())) {
      continue; // the natural order
    }
    Coloring coloring = color_in_sequence(pattern, transposed, sequence);
    if (!best.has_value() || coloring.num_colors < best->num_colors) {
      best = std::move(coloring);
    }
    if (best->num_colors == lower_bound) {
      break;
    }
  }
  return best;
}

} // namespace highgrad::structure
