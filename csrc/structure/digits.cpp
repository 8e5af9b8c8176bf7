#include "structure/digits.h"

#include <algorithm>
#include <utility>

namespace highgrad::structure {
namespace {

// Appends, from the least significant digit on, and merges with the digit before it where the two are one.
void push(Digits& reversed, Digit digit) {
  if (digit.size == 1) {
    return;
  }
  if (!reversed.empty()) {
    Digit& low = reversed.back();
    if (low.is_free() && digit.is_free()) {
      low.size *= digit.size;
      return;
    }
    if (!low.is_free() && !digit.is_free() && digit.stride == low.stride * low.size) {
      low.size *= digit.size;
      return;
    }
  }
  reversed.push_back(digit);
}

// Takes the low part of `size` off a digit, whose size it divides.
Digit take_low(Digit& digit, int64_t size) {
  const Digit low{size, digit.stride};
  digit.size /= size;
  if (!digit.is_free()) {
    digit.stride *= size;
  }
  return low;
}

} // namespace

int64_t numel_of(const Shape& shape) {
  int64_t numel = 1;
  for (const int64_t size : shape) {
    numel *= size;
  }
  return numel;
}

Digits all_free(int64_t numel) {
  return numel == 1 ? Digits{} : Digits{{numel, Digit::kFree}};
}

std::vector<Digits> split_by_axis(const Digits& digits, const Shape& shape) {
  std::vector<Digits> axes(shape.size());
  Digits rest = digits;
  for (size_t axis = shape.size(); axis-- > 0;) {
    Digits reversed;
    int64_t remaining = shape[axis];
    while (remaining > 1) {
      Digit& digit = rest.back();
      if (remaining % digit.size == 0) {
        remaining /= digit.size;
        push(reversed, digit);
        rest.pop_back();
      } else if (digit.size % remaining == 0) {
        push(reversed, take_low(digit, remaining));
        remaining = 1;
      } else {
        for (size_t k = 0; k < shape.size(); ++k) {
          axes[k] = all_free(shape[k]);
        }
        return axes;
      }
    }
    axes[axis].assign(reversed.rbegin(), reversed.rend());
  }
  return axes;
}

Digits join_axes(const std::vector<Digits>& axes) {
  Digits reversed;
  for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
    for (auto digit = axis->rbegin(); digit != axis->rend(); ++digit) {
      push(reversed, *digit);
    }
  }
  std::reverse(reversed.begin(), reversed.end());
  return reversed;
}

Digits common_ties(const Digits& a, const Digits& b) {
  Digits left = a;
  Digits right = b;
  Digits reversed;
  int64_t numel = 1;
  for (const Digit& digit : a) {
    numel *= digit.size;
  }
  while (!left.empty() && !right.empty()) {
    const int64_t size = std::min(left.back().size, right.back().size);
    if (left.back().size % size != 0 || right.back().size % size != 0) {
      return all_free(numel);
    }
    const Digit x = take_low(left.back(), size);
    const Digit y = take_low(right.back(), size);
    push(reversed, {size, x.stride == y.stride ? x.stride : Digit::kFree});
    for (Digits* digits : {&left, &right}) {
      if (digits->back().size == 1) {
        digits->pop_back();
      }
    }
  }
  std::reverse(reversed.begin(), reversed.end());
  return reversed;
}

int64_t tied_size(const Digits& digits) {
  int64_t size = 1;
  for (const Digit& digit : digits) {
    size *= digit.is_free() ? 1 : digit.size;
  }
  return size;
}

} // namespace highgrad::structure
