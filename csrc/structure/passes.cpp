#include "structure/passes.h"

#include <algorithm>
#include <utility>

#include "structure/bicoloring.h"

namespace highgrad::structure {
namespace {

// Colouring steps for each entry.
constexpr int64_t kColoringSteps = 256;

// Another kind of colouring is tried where it may save a quarter at least.
constexpr double kWorthTrying = 0.75;

// Columns with so many times the entries of the mean one may be better taken out.
constexpr int64_t kMuchFuller = 4;

bool has_fuller_columns(const SparsityPattern& transposed) {
  return max_row_degree(transposed) * transposed.rows > kMuchFuller * transposed.nnz();
}

} // namespace

int64_t num_passes(const Compression& compression) {
  return compression.coloring.num_colors + static_cast<int64_t>(compression.full_columns.size());
}

Coloring column_passes(const Compression& compression) {
  if (compression.by_columns) {
    return compression.coloring;
  }
  Coloring passes;
  if (!compression.full_columns.empty()) {
    passes.colors.assign(compression.pattern.columns, -1);
    for (const int64_t column : compression.full_columns) {
      passes.colors[column] = passes.num_colors++;
    }
  }
  return passes;
}

double ColoringLimits::least_cost_of(const SparsityPattern& pattern) const {
  std::vector<int64_t> degrees(pattern.columns, 0);
  for (const int64_t column : pattern.col_ind) {
    ++degrees[column];
  }
  const auto rows = static_cast<double>(degrees.empty() ? 0 : *std::max_element(degrees.begin(), degrees.end()));
  return may_use_columns ? std::min(rows, cost_of_columns(max_row_degree(pattern))) : rows;
}

double ColoringLimits::cost_of(const Compression& compression) const {
  return compression.by_columns ? cost_of_columns(compression.coloring.num_colors)
                                : static_cast<double>(compression.coloring.num_colors) +
          cost_of_columns(static_cast<int64_t>(compression.full_columns.size()));
}

std::optional<Compression> color_pattern(
    SparsityPattern pattern,
    std::vector<int64_t> full_columns,
    std::optional<Coloring> rows,
    const ColoringLimits& limits) {
  const SparsityPattern transposed = transpose(pattern);
  const int64_t max_work = kColoringSteps * (pattern.nnz() + pattern.rows + pattern.columns);
  const auto color = [&](const SparsityPattern& rows, const SparsityPattern& columns) {
    return color_rows(rows, columns, limits.is_thorough ? max_work : std::min(max_work, greedy_work(columns)));
  };
  std::optional<Compression> best;
  const auto offer = [&](bool by_columns, Coloring&& coloring, std::vector<int64_t>&& full) {
    Compression other;
    other.by_columns = by_columns;
    other.coloring = std::move(coloring);
    other.full_columns = std::move(full);
    if (!best.has_value() || limits.cost_of(other) < limits.cost_of(*best)) {
      best = std::move(other);
    }
  };
  const auto is_worth_trying = [&](double least) {
    return !best.has_value() || least < kWorthTrying * limits.cost_of(*best);
  };
  const double least_of_columns = limits.cost_of_columns(max_row_degree(pattern));
  const auto try_columns = [&] {
    if (auto columns = color(transposed, pattern)) {
      offer(true, std::move(*columns), {});
    }
  };
  // In a single call, what promises far less comes first, and is often all that is tried.
  const auto least_of_rows = static_cast<double>(max_row_degree(transposed));
  const bool are_columns_first = limits.may_use_columns && !limits.is_thorough && !rows.has_value() &&
      full_columns.empty() && least_of_columns < kWorthTrying * least_of_rows;
  if (are_columns_first) {
    try_columns();
  }
  if (!rows.has_value() && full_columns.empty()) {
    rows = is_worth_trying(least_of_rows) ? color(pattern, transposed) : std::nullopt;
  } else if (!rows.has_value()) {
    const SparsityPattern rest = without_columns(pattern, full_columns);
    rows = color(rest, transpose(rest));
  }
  if (rows.has_value()) {
    offer(false, std::move(*rows), std::move(full_columns));
  }
  if (limits.may_use_columns && limits.is_thorough && has_fuller_columns(transposed)) {
    Bicoloring both = bicolor(pattern, kColumnCost, max_work);
    offer(false, std::move(both.rows), std::move(both.full_columns));
  }
  if (limits.may_use_columns && !are_columns_first && is_worth_trying(least_of_columns)) {
    try_columns();
  }
  if (best.has_value()) {
    best->pattern = std::move(pattern);
  }
  return best;
}

} // namespace highgrad::structure
