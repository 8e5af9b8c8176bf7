#pragma once

#include <cstdint>

#include "ops/element_function.h"

namespace highgrad::ops {

// One element of y' = w x', along one direction. `V` is a number, or a vector of numbers.

// The slope w as a series that y gives: w = constant + linear y + square y^2, or, by an equation of its own,
// w' = companion y x'.
template <typename T>
struct ElementEquation {
  T constant = 0;
  T linear = 0;
  T square = 0;
  T companion = 0;
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

} // namespace highgrad::ops
