#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace highgrad::structure {

// Which columns each probe has hit: one bit each, rows padded to whole words.
class HitBits {
 public:
  HitBits(int64_t rows, int64_t columns)
      : words_per_row_((columns + kBits - 1) / kBits), words_(rows * words_per_row_, 0) {}

  bool test(int64_t row, int64_t column) const {
    return (words_[row * words_per_row_ + column / kBits] >> (column % kBits) & 1) != 0;
  }

  // Sets the bits of columns [first_column, first_column + count) that are true, one byte each, in `hits`.
  void set(int64_t row, int64_t first_column, const bool* hits, int64_t count) {
    uint64_t* words = words_.data() + row * words_per_row_;
    int64_t k = 0;
    for (; k < count && (first_column + k) % 8 != 0; ++k) {
      set_bit(words, first_column + k, hits[k]);
    }
    for (; k + 8 <= count; k += 8) {
      // Eight bytes of 0 or 1 become eight bits.
      uint64_t bytes = 0;
      std::memcpy(&bytes, hits + k, sizeof bytes);
      const int64_t column = first_column + k;
      words[column / kBits] |= (bytes * 0x0102040810204080ULL >> 56) << (column % kBits);
    }
    for (; k < count; ++k) {
      set_bit(words, first_column + k, hits[k]);
    }
  }

  // What row `from` has hit counts for row `to` as well.
  void merge(int64_t to, int64_t from) {
    for (int64_t w = 0; w < words_per_row_; ++w) {
      words_[to * words_per_row_ + w] |= words_[from * words_per_row_ + w];
    }
  }

  // Calls visit(column) for every column that `row` has hit, ascending.
  template <typename Visit>
  void for_each(int64_t row, Visit&& visit) const {
    for (int64_t w = 0; w < words_per_row_; ++w) {
      for (uint64_t word = words_[row * words_per_row_ + w]; word != 0; word &= word - 1) {
        visit(w * kBits + __builtin_ctzll(word));
      }
    }
  }

  // Of the first `rows` rows together.
  int64_t count(int64_t rows) const {
    int64_t bits = 0;
    for (int64_t w = 0; w < rows * words_per_row_; ++w) {
      bits += __builtin_popcountll(words_[w]);
    }
    return bits;
  }

 private:
  static constexpr int64_t kBits = 64;

  static void set_bit(uint64_t* words, int64_t column, bool hit) {
    words[column / kBits] |= uint64_t{hit} << (column % kBits);
  }

  int64_t words_per_row_;
  std::vector<uint64_t> words_;
};

} // namespace highgrad::structure
