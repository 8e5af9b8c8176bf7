#pragma once

#include <cstdint>

#include "ops/element_function.h"

namespace highgrad::ops {

// One element of y' = w x', along one direction. `V` is a number, or a vector of numbers.

// The slope w as a series that y gives: w = constant + linear y + square y^2, or, by an equation of its own,
// w' = companion y x'.
template <typename T>
struct ElementEquation {
  T constant, linear, square, companion;
};

// 1 / k, as a constant where k is one.
template <typename T>
HIGHGRAD_INLINE T inverse(int64_t k) {
  return static_cast<T>(1.0 / static_cast<double>(k));
}

// w for w = constant + linear y + square y^2. In this order it loses nothing where w is small beside y.
template <typename T, typename V>
HIGHGRAD_INLINE V slope_of_value(const ElementEquation<T>& equation, const V& y) {
  if (equation.square == 0) {
    return equation.constant != 0 ? y * equation.linear + equation.constant : y * equation.linear;
  }
  return equation.constant + y * (equation.linear + y * equation.square);
}

// y[k] and, with the slope, w[k] from lower orders; dx[j] = j x_j for j up to `terms`, the orders of x.
template <typename T, typename V>
HIGHGRAD_INLINE void advance_element(
    const ElementEquation<T>& equation,
    int64_t k,
    int64_t terms,
    bool with_slope,
    const V* dx,
    V* y,
    V* w) {
  const int64_t last = k < terms ? k : terms;
  V sum = dx[1] * w[k - 1];
  HIGHGRAD_UNROLL
  for (int64_t j = 2; j <= last; ++j) {
    sum += dx[j] * w[k - j];
  }
  y[k] = sum * inverse<T>(k);
  if (!with_slope) {
    return;
  }
  if (equation.companion != 0) {
    V change = dx[1] * y[k - 1];
    HIGHGRAD_UNROLL
    for (int64_t j = 2; j <= last; ++j) {
      change += dx[j] * y[k - j];
    }
    w[k] = change * (equation.companion * inverse<T>(k));
    return;
  }
  if (equation.square == 0) {
    w[k] = y[k] * equation.linear;
    return;
  }
  V pairs = y[0] * y[k];
  HIGHGRAD_UNROLL
  for (int64_t j = 1; 2 * j < k; ++j) {
    pairs += y[j] * y[k - j];
  }
  pairs += pairs;
  if (k % 2 == 0) {
    pairs += y[k / 2] * y[k / 2];
  }
  w[k] = pairs * equation.square;
  if (equation.linear != 0) {
    w[k] += y[k] * equation.linear;
  }
}

// The reverse of coefficient k of w: from its cotangent by_w to those of dx and y.
template <typename T, typename V>
HIGHGRAD_INLINE void reverse_slope(
    const ElementEquation<T>& equation,
    int64_t k,
    int64_t terms,
    const V& by_w,
    const V* dx,
    const V* y,
    V* by_dx,
    V* by_y) {
  if (equation.companion != 0) {
    const int64_t last = k < terms ? k : terms;
    const V scaled = by_w * (equation.companion * inverse<T>(k));
    HIGHGRAD_UNROLL
    for (int64_t j = 1; j <= last; ++j) {
      by_dx[j] += scaled * y[k - j];
      by_y[k - j] += scaled * dx[j];
    }
    return;
  }
  if (equation.linear != 0) {
    by_y[k] += by_w * equation.linear;
  }
  if (equation.square != 0) {
    const V scaled = by_w * (2 * equation.square);
    HIGHGRAD_UNROLL
    for (int64_t j = 0; j <= k; ++j) {
      by_y[j] += scaled * y[k - j];
    }
  }
}

// The reverse of coefficient k of y, whose cotangent is by_yk, to those of dx[1], ..., dx[last] and of w.
template <typename T, typename V>
HIGHGRAD_INLINE void reverse_integral(
    int64_t k,
    int64_t last,
    const V& by_yk,
    const V* dx,
    const V* w,
    V* by_dx,
    V* by_w) {
  const V scaled = by_yk * inverse<T>(k);
  HIGHGRAD_UNROLL
  for (int64_t j = 1; j <= last; ++j) {
    by_dx[j] += scaled * w[k - j];
    by_w[k - j] += scaled * dx[j];
  }
}

} // namespace highgrad::ops
