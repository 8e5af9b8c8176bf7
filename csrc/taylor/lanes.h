#pragma once

#include <c10/util/irange.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "taylor/vector_width.h"

namespace highgrad::taylor {

// Elements side by side, as a vector that the compiler cuts to the width that there is.
template <typename T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(64)));
  static constexpr int64_t kCount = 64 / sizeof(T);
};

template <typename T>
HIGHGRAD_INLINE typename Lanes<T>::Vector load(const T* source, int64_t length) {
  typename Lanes<T>::Vector vector{};
  if (length == Lanes<T>::kCount) {
    std::memcpy(&vector, source, sizeof(vector));
  } else {
    std::memcpy(&vector, source, static_cast<size_t>(length) * sizeof(T));
  }
  return vector;
}

template <typename T>
HIGHGRAD_INLINE void store(const typename Lanes<T>::Vector& vector, T* place, int64_t length) {
  if (length == Lanes<T>::kCount) {
    std::memcpy(place, &vector, sizeof(vector));
  } else {
    std::memcpy(place, &vector, static_cast<size_t>(length) * sizeof(T));
  }
}

template <typename T>
HIGHGRAD_INLINE void accumulate(const typename Lanes<T>::Vector& vector, T* place, int64_t length) {
  store<T>(load(place, length) + vector, place, length);
}

// Adds to a whole vector of a sum over directions, which the first one begins.
template <typename T>
HIGHGRAD_INLINE void add_direction(int64_t direction, const typename Lanes<T>::Vector& term, T* sum) {
  store<T>(direction == 0 ? term : load(sum, Lanes<T>::kCount) + term, sum, Lanes<T>::kCount);
}

// Elements of a stretch: sums of theirs over directions stay in the nearest cache.
constexpr int64_t kStretch = 1024;

// Scratch memory, aligned for vectors, which an allocator need not know of.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t vectors) : memory_((vectors + 1) * Lanes<T>::kCount) {}
  typename Lanes<T>::Vector* get() {
    constexpr uintptr_t kAlignment = sizeof(typename Lanes<T>::Vector);
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return reinterpret_cast<typename Lanes<T>::Vector*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  std::vector<T> memory_;
};

// The least multiple of a period that holds a vector.
template <typename T>
int64_t whole_periods(int64_t period) {
  return (Lanes<T>::kCount + period - 1) / period * period;
}

// Where the vector after that at `place` of such a row starts, in a row of `period` and a vector.
template <typename T>
HIGHGRAD_INLINE int64_t next_place(int64_t place, int64_t period) {
  const int64_t next = place + Lanes<T>::kCount;
  return next >= period ? next - period : next;
}

// The rows [D, period], each repeated up to `length`.
template <typename T>
std::vector<T> repeat_rows(const T* rows, int64_t directions, int64_t period, int64_t length) {
  std::vector<T> result(directions * length);
  for (int64_t d = 0; d < directions; ++d) {
    for (int64_t i = 0; i < length; ++i) {
      result[d * length + i] = rows[d * period + i % period];
    }
  }
  return result;
}

// The sum over tasks of rows that `repeat_rows` made.
template <typename T>
void fold_rows(const std::vector<T>& repeated, int64_t directions, int64_t length, int64_t period, T* rows) {
  std::vector<double> sums(directions * period, 0);
  const int64_t tasks = static_cast<int64_t>(repeated.size()) / (directions * length);
  for (const auto row : c10::irange(tasks * directions)) {
    for (const auto i : c10::irange(length)) {
      sums[row % directions * period + i % period] += static_cast<double>(repeated[row * length + i]);
    }
  }
  std::transform(sums.begin(), sums.end(), rows, [](double sum) { return static_cast<T>(sum); });
}

} // namespace highgrad::taylor
