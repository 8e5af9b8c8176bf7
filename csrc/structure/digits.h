#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "structure/windows.h"

namespace highgrad::structure {

// Note [Digits]
// The row-major index of an element, written in mixed radix: one digit an axis, or several, or one for several axes.
// Each digit of a tensor's index is free, or equal to a digit of the output's index, (index / stride) % size, or has a
// window of such a digit for each of its values; see Note [Windows]. That is how the axes of a tensor on the tape are
// tied to those of the output through views that split and merge axes.
struct Digit {
  int64_t size = 1;
  int64_t stride = kFree; // of the digit of the output that it is tied to
  std::shared_ptr<const Window> window = nullptr; // null for a digit that equals the output's

  static constexpr int64_t kFree = -1;
  bool is_free() const {
    return stride == kFree;
  }
  bool is_equal() const {
    return !is_free() && window == nullptr;
  }
  // Of the output's digit, unless it is free.
  int64_t out_size() const {
    return window == nullptr ? size : window->size;
  }
};

// Most significant first; the sizes multiply to the number of elements.
using Digits = std::vector<Digit>;
using Shape = std::vector<int64_t>;

int64_t numel_of(const Shape& shape);

Digits all_free(int64_t numel);

// An axis of `in_size` positions that lies along one of these digits, of out's axis.
Digits slide_digits(const Slide& slide, const Digits& out, int64_t in_size);

// The digits of each axis of `shape`; all free where the two do not line up.
std::vector<Digits> split_by_axis(const Digits& digits, const Shape& shape);

// The reverse, with neighbours merged that are one digit.
Digits join_axes(const std::vector<Digits>& axes);

// Ties that both have: what holds if either may.
Digits common_ties(const Digits& a, const Digits& b);

// Product of the sizes of all digits that equal one of the output's.
int64_t tied_size(const Digits& digits);

} // namespace highgrad::structure
