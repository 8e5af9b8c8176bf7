#pragma once

#include <cstdint>
#include <vector>

namespace highgrad::structure {

// Where a matrix of `rows` x `columns` may be nonzero: compressed sparse rows, columns ascending within each row.
struct SparsityPattern {
  int64_t rows = 0;
  int64_t columns = 0;
  // Row i's columns are col_ind[row_ptr[i]] to col_ind[row_ptr[i + 1] - 1].
  std::vector<int64_t> row_ptr = {0};
  std::vector<int64_t> col_ind;

  int64_t nnz() const {
    return static_cast<int64_t>(col_ind.size());
  }
};

bool operator==(const SparsityPattern& a, const SparsityPattern& b);

// The pattern of these entries, in any order and without duplicates: two counting sorts.
SparsityPattern pattern_of_entries(
    int64_t rows,
    int64_t columns,
    const std::vector<int64_t>& row_of,
    const std::vector<int64_t>& column_of);

SparsityPattern transpose(const SparsityPattern& pattern);

// Most entries in a row, 0 for a matrix without any.
int64_t max_row_degree(const SparsityPattern& pattern);

// Raises std::invalid_argument, naming `caller`, unless the arrays are those of a pattern.
void check_pattern(const char* caller, const SparsityPattern& pattern);

} // namespace highgrad::structure
