#include "structure/sparsity_pattern.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace highgrad::structure {
namespace {

// Turns counts, kept one place to the right, into the start of each bucket.
void accumulate(std::vector<int64_t>& counts) {
  for (size_t i = 1; i < counts.size(); ++i) {
    counts[i] += counts[i - 1];
  }
}

} // namespace

bool operator==(const SparsityPattern& a, const SparsityPattern& b) {
  return a.rows == b.rows && a.columns == b.columns && a.row_ptr == b.row_ptr && a.col_ind == b.col_ind;
}

SparsityPattern transpose(const SparsityPattern& pattern) {
  SparsityPattern result{pattern.columns, pattern.rows, std::vector<int64_t>(pattern.columns + 1, 0), {}};
  for (const int64_t column : pattern.col_ind) {
    ++result.row_ptr[column + 1];
  }
  accumulate(result.row_ptr);
  result.col_ind.resize(pattern.col_ind.size());
  std::vector<int64_t> next(result.row_ptr.begin(), result.row_ptr.end() - 1);
  for (int64_t row = 0; row < pattern.rows; ++row) {
    for (int64_t k = pattern.row_ptr[row]; k < pattern.row_ptr[row + 1]; ++k) {
      result.col_ind[next[pattern.col_ind[k]]++] = row;
    }
  }
  return result;
}

SparsityPattern pattern_of_entries(
    int64_t rows,
    int64_t columns,
    const std::vector<int64_t>& row_of,
    const std::vector<int64_t>& column_of) {
  // By column first: the transposition then leaves every row's columns ascending.
  SparsityPattern by_column{columns, rows, std::vector<int64_t>(columns + 1, 0), {}};
  for (const int64_t column : column_of) {
    ++by_column.row_ptr[column + 1];
  }
  accumulate(by_column.row_ptr);
  by_column.col_ind.resize(row_of.size());
  std::vector<int64_t> next(by_column.row_ptr.begin(), by_column.row_ptr.end() - 1);
  for (size_t k = 0; k < row_of.size(); ++k) {
    by_column.col_ind[next[column_of[k]]++] = row_of[k];
  }
  return transpose(by_column);
}

int64_t max_row_degree(const SparsityPattern& pattern) {
  int64_t most = 0;
  for (int64_t row = 0; row < pattern.rows; ++row) {
    most = std::max(most, pattern.row_ptr[row + 1] - pattern.row_ptr[row]);
  }
  return most;
}

void check_pattern(const char* caller, const SparsityPattern& pattern) {
  const auto fail = [&](const std::string& rule) {
    throw std::invalid_argument(std::string(caller) + ": expected " + rule);
  };
  if (pattern.rows < 0 || pattern.columns < 0) {
    fail("rows and columns of at least 0");
  }
  if (static_cast<int64_t>(pattern.row_ptr.size()) != pattern.rows + 1 || pattern.row_ptr.front() != 0 ||
      pattern.row_ptr.back() != pattern.nnz()) {
    fail("row_ptr of rows + 1 elements, from 0 to nnz");
  }
  for (int64_t row = 0; row < pattern.rows; ++row) {
    const int64_t begin = pattern.row_ptr[row];
    const int64_t end = pattern.row_ptr[row + 1];
    if (begin > end || end > pattern.nnz()) {
      fail("row_ptr to ascend, got otherwise in row " + std::to_string(row));
    }
    for (int64_t k = begin; k < end; ++k) {
      if (pattern.col_ind[k] < 0 || pattern.col_ind[k] >= pattern.columns ||
          (k > begin && pattern.col_ind[k] <= pattern.col_ind[k - 1])) {
        fail("col_ind to ascend within 0 to columns - 1, got otherwise in row " + std::to_string(row));
      }
    }
  }
}

} // namespace highgrad::structure
