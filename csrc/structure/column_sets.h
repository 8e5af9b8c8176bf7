#pragma once

#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <vector>

namespace highgrad::structure {

// Thrown by what has done all the work that it may.
struct WorkExceeded {};

// Sets of columns, each kept once and known by its number: equal sets have equal numbers. (E. Goto, "Monocopy and
// associative algorithms in an extended Lisp", 1974: hash consing.)
class ColumnSets {
 public:
  // The set without columns is 0, that of column j alone is j + 1.
  static constexpr int32_t kEmpty = 0;

  // A step of work is one comparison of two numbers, or one column that is looked at.
  ColumnSets(int64_t columns, int64_t max_work);

  // Ascending.
  c10::ArrayRef<int32_t> columns_of(int32_t set) const {
    return {columns_.data() + first_[set], static_cast<size_t>(first_[set + 1] - first_[set])};
  }

  int32_t unite(int32_t a, int32_t b) {
    if (a == b || b == kEmpty) {
      return a;
    }
    return a == kEmpty ? b : unite_different(a, b);
  }

  // Of all of these, which are sorted on the way.
  int32_t unite(std::vector<int32_t>& sets);

  void spend(int64_t steps) {
    work_left_ -= steps;
    if (work_left_ < 0) {
      throw WorkExceeded();
    }
  }

 private:
  // A union that was computed before; later ones may take its place.
  struct Known {
    int32_t a = kEmpty;
    int32_t b = kEmpty;
    int32_t both = kEmpty;
  };

  int32_t unite_different(int32_t a, int32_t b);
  // The number of the set whose columns are the last ones in columns_, from `begin` on: an old one, or the next.
  int32_t intern(int64_t begin);
  void grow_table();

  int64_t work_left_;
  std::vector<int32_t> columns_; // of all sets, one after the other
  std::vector<int64_t> first_; // of each set in columns_, and the end
  std::vector<uint64_t> hashes_;
  std::vector<int32_t> table_; // of sets by hash, open addressing; -1 for a free place
  std::vector<Known> unions_;
  std::vector<int32_t> seen_; // for each column, the last union that has it
  int32_t num_unions_ = 0;
};

} // namespace highgrad::structure
