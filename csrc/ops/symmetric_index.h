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

HIGHGRAD_HOST_DEVICE int64_t binomial(int64_t n, int64_t k) {
  int64_t result = 1;
  HIGHGRAD_NO_UNROLL
  for (int64_t i = 1; i <= k; ++i) {
    result = result * (n - k + i) / i;
  }
  return n < k ? 0 : result;
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
HIGHGRAD_HOST_DEVICE int digit_width(int64_t size) {
  int width = 0;
  HIGHGRAD_NO_UNROLL
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

// The rank of a sorted multi-index.
HIGHGRAD_HOST_DEVICE int64_t rank_of(const MultiIndex& sorted, int order) {
  int64_t rank = 0;
  int k = 0;
  HIGHGRAD_NO_UNROLL
  do {
    rank += binomial(digit(sorted, k) + k, k + 1);
  } while (++k < order);
  return rank;
}

// The sorted multi-index of rank `rank`: from the last digit on, each is the largest whose term is at most what is
// left.
HIGHGRAD_HOST_DEVICE MultiIndex unrank(int64_t rank, int64_t size, int order, int width) {
  MultiIndex sorted{0, width};
  int64_t most = size - 1;
  int k = order - 1;
  HIGHGRAD_NO_UNROLL
  do {
    int64_t low = 0;
    int64_t term = 0; // C(low + k, k + 1)
    HIGHGRAD_NO_UNROLL
    for (int64_t high = most; low < high;) {
      const int64_t middle = high - (high - low) / 2;
      const int64_t next = binomial(middle + k, k + 1);
      if (next <= rank) {
        low = middle;
        term = next;
      } else {
        high = middle - 1;
      }
    }
    add_to_digit(sorted, k, low);
    rank -= term;
    most = low;
  } while (--k >= 0);
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
  HIGHGRAD_NO_UNROLL
  for (int left = k + 1, right = order - 1; left < right; ++left, --right) {
    swap_digits(index, left, right);
  }
  return true;
}

} // namespace highgrad::ops
