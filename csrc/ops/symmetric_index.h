#pragma once

// Index arithmetic of packed symmetric tensors, shared by the CPU and the CUDA kernels.
//
// A symmetric tensor of `order` dimensions of `size` has C(size + order - 1, order) different entries: those of sorted
// multi-indices i_0 <= i_1 <= ... They are packed in colexicographic order, where the rank of a multi-index is the sum
// of C(i_k + k, k + 1), whatever the size (Knuth, TAOCP 4A, 7.2.1.3, the combinatorial number system).

#include "ops/index_math.h"

namespace highgrad::ops {

constexpr int kMaxOrder = 64;

HIGHGRAD_HOST_DEVICE int64_t binomial(int64_t n, int64_t k) {
  int64_t result = 1;
  for (int64_t i = 1; i <= k; ++i) {
    result = result * (n - k + i) / i;
  }
  return n < k ? 0 : result;
}

HIGHGRAD_HOST_DEVICE int64_t packed_size(int64_t size, int order) {
  return order == 0 ? 1 : binomial(size + order - 1, order);
}

// The digits of `linear`, an offset into a row-major tensor of `order` dimensions of `size`.
HIGHGRAD_HOST_DEVICE void split_index(int64_t linear, int64_t size, int order, int64_t* digits) {
  for (int k = order - 1; k >= 0; --k) {
    digits[k] = linear % size;
    linear /= size;
  }
}

HIGHGRAD_HOST_DEVICE void sort_digits(int64_t* digits, int order) {
  for (int k = 1; k < order; ++k) {
    const int64_t digit = digits[k];
    int slot = k;
    for (; slot > 0 && digits[slot - 1] > digit; --slot) {
      digits[slot] = digits[slot - 1];
    }
    digits[slot] = digit;
  }
}

// The sorted multi-index of rank `rank`.
HIGHGRAD_HOST_DEVICE void unrank(int64_t rank, int order, int64_t* sorted) {
  for (int k = order - 1; k >= 0; --k) {
    int64_t digit = 0;
    int64_t below = 0; // C(digit + k, k + 1)
    for (int64_t next = 1; next <= rank; next = binomial(digit + 1 + k, k + 1)) {
      digit += 1;
      below = next;
    }
    sorted[k] = digit;
    rank -= below;
  }
}

// The next permutation in lexicographic order, or false after the last.
HIGHGRAD_HOST_DEVICE bool next_permutation(int64_t* digits, int order) {
  int k = order - 2;
  while (k >= 0 && digits[k] >= digits[k + 1]) {
    --k;
  }
  if (k < 0) {
    return false;
  }
  int last = order - 1;
  while (digits[last] <= digits[k]) {
    --last;
  }
  const int64_t digit = digits[k];
  digits[k] = digits[last];
  digits[last] = digit;
  for (int left = k + 1, right = order - 1; left < right; ++left, --right) {
    const int64_t swapped = digits[left];
    digits[left] = digits[right];
    digits[right] = swapped;
  }
  return true;
}

} // namespace highgrad::ops
