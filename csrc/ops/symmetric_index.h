#pragma once

// Index arithmetic of packed symmetric tensors, shared word for word by the CPU and the CUDA kernels.
//
// A symmetric tensor of `order` dimensions of `size` has C(size + order - 1, order) different entries: those of sorted
// multi-indices i_0 <= i_1 <= ... They are packed in colexicographic order, where the rank of a multi-index is the sum
// of C(i_k + k, k + 1), whatever the size (Knuth, TAOCP 4A, 7.2.1.3, the combinatorial number system).
//
// Every `order` is at least 1.

#include "ops/index_math.h"

namespace highgrad::ops {

constexpr int kMaxOrder = 64;

// Neither is negative, and result * k fits. Where n is less than k, one of the factors is zero.
template <typename number_t>
HIGHGRAD_HOST_DEVICE number_t binomial_in(number_t n, number_t k) {
  number_t result = 1;
  HIGHGRAD_NO_UNROLL
  for (number_t i = 1; i <= k; ++i) {
    result = result * (n - k + i) / i;
  }
  return result;
}

HIGHGRAD_HOST_DEVICE int64_t binomial(int64_t n, int64_t k) {
  return binomial_in<int64_t>(n, k);
}

// C(digit + k, k + 1): what a digit adds to the rank as the k-th of a sorted multi-index, k at least 1.
HIGHGRAD_HOST_DEVICE int64_t later_rank_term(int64_t digit, int k) {
  int64_t result = digit;
  int64_t i = 1;
  HIGHGRAD_NO_UNROLL
  do {
    result = result * (digit + i) / (i + 1);
  } while (++i <= k);
  return result;
}

// The first three are written out, since a division by what the compiler knows is a product.
template <typename number_t>
HIGHGRAD_HOST_DEVICE number_t early_rank_term(number_t digit, int k) {
  return k == 0 ? digit : k == 1 ? digit * (digit + 1) / 2 : digit * (digit + 1) / 2 * (digit + 2) / 3;
}

// Of any k.
HIGHGRAD_HOST_DEVICE int64_t rank_term(int64_t digit, int k) {
  return k <= 2 ? static_cast<int64_t>(early_rank_term(static_cast<uint64_t>(digit), k)) : later_rank_term(digit, k);
}

HIGHGRAD_HOST_DEVICE int64_t packed_size(int64_t size, int order) {
  return binomial(size + order - 1, order);
}

// A multi-index in one word, of `width` bits a digit: on a device, an array would lie in memory. Digits that do not fit
// belong to tensors of more than 2^49 entries, which no memory holds.
struct MultiIndex {
  uint64_t word;
  int width;
};

HIGHGRAD_HOST_DEVICE int64_t digit(const MultiIndex& index, int k) {
  return static_cast<int64_t>(index.word >> (k * index.width) & ((uint64_t{1} << index.width) - 1));
}

HIGHGRAD_HOST_DEVICE void add_to_digit(MultiIndex& index, int k, int64_t value) {
  index.word += static_cast<uint64_t>(value) << (k * index.width);
}

// Bits that hold every digit below `size`.
inline int digit_width(int64_t size) {
  int width = 0;
  while (width < 62 && size > int64_t{1} << width) {
    width += 1;
  }
  return width;
}

// The digits of `linear`, an offset into a row-major tensor of `order` dimensions of `size`.
HIGHGRAD_HOST_DEVICE MultiIndex split_index(int64_t linear, int64_t size, int order, int width) {
  MultiIndex index{0, width};
  int k = order - 1;
  HIGHGRAD_NO_UNROLL
  do {
    const int64_t rest = linear / size;
    add_to_digit(index, k, linear - rest * size);
    linear = rest;
  } while (--k >= 0);
  return index;
}

// The offset whose digits these are.
HIGHGRAD_HOST_DEVICE int64_t join_index(const MultiIndex& index, int64_t size, int order) {
  int64_t linear = 0;
  int k = 0;
  HIGHGRAD_NO_UNROLL
  do {
    linear = linear * size + digit(index, k);
  } while (++k < order);
  return linear;
}

// The digits of the next offset; after the last, those of the first.
HIGHGRAD_HOST_DEVICE void next_index(MultiIndex& index, int64_t size, int order) {
  HIGHGRAD_NO_UNROLL
  for (int k = order - 1; k >= 0; --k) {
    if (digit(index, k) + 1 < size) {
      add_to_digit(index, k, 1);
      return;
    }
    add_to_digit(index, k, 1 - size);
  }
}

// Exchanges two digits.
HIGHGRAD_HOST_DEVICE void swap_digits(MultiIndex& index, int a, int b) {
  const int64_t difference = digit(index, b) - digit(index, a);
  add_to_digit(index, a, difference);
  add_to_digit(index, b, -difference);
}

HIGHGRAD_HOST_DEVICE void sort_digits(MultiIndex& index, int order) {
  int k = 0;
  HIGHGRAD_NO_UNROLL
  do {
    HIGHGRAD_NO_UNROLL
    for (int slot = k; slot > 0 && digit(index, slot - 1) > digit(index, slot); --slot) {
      swap_digits(index, slot - 1, slot);
    }
  } while (++k < order);
}

// Takes the term of the k-th digit of a sorted multi-index, k at least 1, which grows with the digit, off its rank: the
// largest that is at most what is left. No digit is above `most`. In 32 bits, k is at most 2 and no digit above 1500.
template <typename number_t>
HIGHGRAD_HOST_DEVICE number_t take_digit(number_t& rank, number_t most, int k) {
  number_t low = 0;
  number_t taken = 0; // the term of `low`
  number_t high = most;
  HIGHGRAD_NO_UNROLL
  do {
    const number_t middle = high - ((high - low) >> 1);
    const number_t next = sizeof(number_t) == 4 ? early_rank_term(middle, k) : rank_term(middle, k);
    if (next <= rank) {
      low = middle;
      taken = next;
    } else {
      high = middle - 1;
    }
  } while (low < high);
  rank -= taken;
  return low;
}

// The sorted multi-index of rank `rank`, from the last digit on. The first is what is left.
HIGHGRAD_HOST_DEVICE MultiIndex unrank(int64_t rank, int64_t size, int order, int width) {
  MultiIndex sorted{0, width};
  int64_t most = size - 1;
  HIGHGRAD_NO_UNROLL
  for (int k = order - 1; k > 0; --k) {
    most = take_digit(rank, most, k);
    add_to_digit(sorted, k, most);
  }
  add_to_digit(sorted, 0, rank);
  return sorted;
}

// The next permutation in lexicographic order, or false after the last.
HIGHGRAD_HOST_DEVICE bool next_permutation(MultiIndex& index, int order) {
  int k = order - 1;
  HIGHGRAD_NO_UNROLL
  do {
    if (--k < 0) {
      return false;
    }
  } while (digit(index, k) >= digit(index, k + 1));
  int last = order - 1;
  while (digit(index, last) <= digit(index, k)) {
    --last;
  }
  swap_digits(index, k, last);
  int left = k + 1;
  int right = order - 1;
  HIGHGRAD_NO_UNROLL
  do {
    swap_digits(index, left, right);
  } while (++left < --right);
  return true;
}

// What one of two digits adds to the rank of a multi-index that `others` sorted ones complete: the rank is the sum of
// this for the smaller and for the larger of the two. The others' own terms, which depend on how many of the two are in
// front of them, are in it.
HIGHGRAD_HOST_DEVICE int64_t pair_term(const MultiIndex& sorted, int others, int64_t value, bool is_larger) {
  int64_t sum = 0;
  int place = 0; // of the value among the others
  HIGHGRAD_NO_UNROLL
  for (int k = 0; k < others; ++k) {
    const int64_t other = digit(sorted, k);
    const bool in_front = other <= value;
    if (in_front || is_larger) {
      // Of C(i + m, m + 1). The larger counts the others as if behind the smaller; where one is in front of the smaller
      // as well, that takes the difference back, which by Pascal's rule is a term again.
      const int64_t i = is_larger ? other : other - 1;
      const int m = k + (in_front ? 1 : 2);
      sum += is_larger ? rank_term(i, m) : -rank_term(i, m);
    }
    place += in_front;
  }
  place += is_larger;
  return sum + rank_term(value, place);
}

// The ranks of sorted digits, of which there are some, with one more among them, which never decreases from call to
// call. `terms` holds C(i + k, k + 1) at [k * size + i].
struct InsertedRank {
  int place; // of the one more
  int64_t below; // what the digits in front of it add
  int64_t above; // what those behind it add
};

// Before any digit is inserted.
HIGHGRAD_HOST_DEVICE InsertedRank
start_inserting(const MultiIndex& sorted, int others, const int64_t* terms, int64_t size) {
  InsertedRank rank{0, 0, 0};
  int k = 0;
  HIGHGRAD_NO_UNROLL
  do {
    rank.above += terms[(k + 1) * size + digit(sorted, k)];
  } while (++k < others);
  return rank;
}

HIGHGRAD_HOST_DEVICE int64_t
insert(InsertedRank& rank, const MultiIndex& sorted, int others, const int64_t* terms, int64_t size, int64_t value) {
  HIGHGRAD_NO_UNROLL
  while (rank.place < others && digit(sorted, rank.place) < value) {
    const int64_t term = rank.place * size + digit(sorted, rank.place);
    rank.below += terms[term];
    rank.above -= terms[term + size];
    rank.place += 1;
  }
  return rank.below + terms[rank.place * size + value] + rank.above;
}

} // namespace highgrad::ops
