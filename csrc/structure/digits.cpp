#include "structure/digits.h"

#include <algorithm>
#include <utility>

namespace highgrad::structure {
namespace {

// Appends, from the least significant digit on, and merges with the digit before it where the two are one. A window of
// one position tells still which of the output's elements depend on it.
void push(Digits& reversed, Digit digit) {
  if (digit.size == 1 && digit.window == nullptr) {
    return;
  }
  if (!reversed.empty()) {
    Digit& low = reversed.back();
    if (low.is_free() && digit.is_free()) {
      low.size *= digit.size;
      return;
    }
    if (low.is_equal() && digit.is_equal() && digit.stride == low.stride * low.size) {
      low.size *= digit.size;
      return;
    }
  }
  reversed.push_back(digit);
}

// Takes the low part of `size` off a digit, whose size it divides. A window has no parts: without it, they are free.
Digit take_low(Digit& digit, int64_t size) {
  if (digit.size == size) {
    return std::exchange(digit, {});
  }
  if (digit.window != nullptr) {
    digit = {digit.size};
  }
  const Digit low{size, digit.stride};
  digit.size /= size;
  if (!digit.is_free()) {
    digit.stride *= size;
  }
  return low;
}

Digit windowed(int64_t stride, Window&& window) {
  const auto size = static_cast<int64_t>(window.arcs.size());
  if (!tells_apart(window)) {
    return {size};
  }
  return {size, stride, is_identity(window) ? nullptr : std::make_shared<const Window>(std::move(window))};
}

Window window_of(const Digit& digit) {
  return digit.window == nullptr ? identity_window(digit.size) : *digit.window;
}

// What holds of both of two digits of equal size.
Digit common_digit(const Digit& a, const Digit& b) {
  if (a.is_free() || b.is_free() || a.stride != b.stride || a.out_size() != b.out_size()) {
    return {a.size};
  }
  return a.window == b.window ? a : windowed(a.stride, joint_window(window_of(a), window_of(b)));
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

Digits slide_digits(const Slide& slide, const Digits& out, int64_t in_size) {
  if (out.size() != 1 || out.front().is_free()) {
    return all_free(in_size);
  }
  const Digit& digit = out.front();
  return {windowed(digit.stride, slide_window(slide, window_of(digit), in_size))};
}

std::vector<Digits> split_by_axis(const Digits& digits, const Shape& shape) {
  std::vector<Digits> axes(shape.size());
  Digits rest = digits;
  for (size_t axis = shape.size(); axis-- > 0;) {
    Digits reversed;
    int64_t remaining = shape[axis];
    // A window of one position belongs to an axis of size one, and is dropped within others.
    while (remaining > 1 || (shape[axis] == 1 && !rest.empty() && rest.back().size == 1)) {
      Digit& digit = rest.back();
      if (remaining % digit.size == 0) {
        remaining /= digit.size;
        if (digit.size > 1 || shape[axis] == 1) {
          push(reversed, digit);
        }
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
    // Where one alone has a window of one position, the other allows everything.
    if (size == 1 && left.back().size != right.back().size) {
      (left.back().size == 1 ? left : right).pop_back();
      continue;
    }
    const Digit x = take_low(left.back(), size);
    const Digit y = take_low(right.back(), size);
    push(reversed, common_digit(x, y));
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
    size *= digit.is_equal() ? digit.size : 1;
  }
  return size;
}

} // namespace highgrad::structure
