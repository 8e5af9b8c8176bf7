#pragma once

#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <vector>

namespace highgrad::structure {

// Sets of columns, each kept once and known by its number: equal sets have equal numbers. (E. Goto, "Monocopy and
// associative algorithms in an extended Lisp", 1974: hash consing.) Of few columns, a set is kept as one bit for each,
// of many as their numbers.
class ColumnSets {
 public:
  // The set without columns is 0, that of column j alone is j + 1.
  static constexpr int32_t kEmpty = 0;

  // A step of work is one comparison of two numbers, or one column, or eight words of bits, that are looked at.
  // `work_left` counts down, and outlives this. Once it is negative nothing more is done, and all unions are empty: no
  // exception, since unwinding takes longer than small budgets.
  ColumnSets(int64_t columns, int64_t& work_left);

  // Ascending. Appends nothing, and returns false, where there is too much work.
  bool append_columns(int32_t set, std::vector<int64_t>& to);

  int32_t unite(int32_t a, int32_t b) {
    if (a == b || b == kEmpty) {
      return a;
    }
    return a == kEmpty ? b : unite_different(a, b);
  }

  // Of all of these, of which each is left once.
  int32_t unite(std::vector<int32_t>& sets);

  // Whether that much work was left.
  bool spend(int64_t steps) {
    work_left_ -= steps;
    return !is_exhausted();
  }
  bool is_exhausted() const {
    return work_left_ < 0;
  }

 private:
  // A union that was computed before; later ones may take its place.
  struct Known {
    int32_t a = kEmpty;
    int32_t b = kEmpty;
    int32_t both = kEmpty;
  };

  bool are_bits() const {
    return words_per_set_ > 0;
  }

  int32_t unite_different(int32_t a, int32_t b);
  int32_t unite_bits(c10::ArrayRef<int32_t> sets);
  // The number of the next union, for `united_` and `seen_`.
  int32_t next_union();
  // Of the columns from `begin` on, which lie between first and last.
  void sort_columns(int64_t begin, int32_t first, int32_t last);
  // The number of the set whose columns are the last ones in columns_, from `begin` on, or whose bits are the last in
  // words_: an old one, or the next.
  int32_t intern(int64_t begin);
  int32_t intern_bits();
  template <typename IsEqual, typename Drop>
  int32_t find_or_add(uint64_t hash, IsEqual&& is_equal, Drop&& drop);
  void grow_table();

  int64_t& work_left_;
  std::vector<int32_t> columns_; // of all sets, one after the other
  std::vector<int64_t> first_; // of each set in columns_, and the end
  int64_t words_per_set_ = 0; // none where columns are listed
  std::vector<uint64_t> words_; // of the bits of all sets, one after the other
  std::vector<uint64_t> hashes_;
  std::vector<int32_t> table_; // of sets by hash, open addressing; -1 for a free place
  std::vector<Known> unions_;
  std::vector<int32_t> united_; // for each set, the last union of several that it was part of
  std::vector<int32_t> seen_; // for each column, the last union of several that has it
  std::vector<uint64_t> bits_; // one a column, all zero in between
  int32_t num_unions_ = 0;
};

} // namespace highgrad::structure
