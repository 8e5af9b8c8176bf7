#pragma once

#include "ops/recurrence_element.h"

// One element of phi's Taylor series at x_0, phi(x_0 + h) = phi(x_0) + c_1 h + c_2 h^2 + ...: each recurrence is that
// of a differential equation in x itself.

namespace highgrad::ops {

// How the series comes from values at x_0, the seeds.
enum class LocalKind {
  kGiven, // c: [orders, *shape]
  kSolution, // of y' = w: y, and w where y does not give it
  kSilu, // x and sigmoid(x)
  kSoftplus, // x and sigmoid(rate x); linear where rate x is above the threshold
  kMish, // x and sigmoid(x)
  kGelu, // x, the slope, and exp(-x^2 / 2)
  kElu, // x, and the decay, proportional to exp(rate x), that holds below zero; above, the slope is the threshold
};

constexpr int kMostSeeds = 3;

// Up to which order there are kernels for jets but on the CPU: what an element needs is in registers.
constexpr int kMostComposedOrder = 6;

template <typename T>
struct LocalEquation {
  LocalKind kind;
  bool slope_is_seed; // of a solution
  ElementEquation<T> equation; // of a solution
  T rate, threshold;
};

// s' = s (1 - s), up to order n.
template <typename T, typename V>
HIGHGRAD_INLINE void sigmoid_series(int64_t n, V* s) {
  HIGHGRAD_UNROLL
  for (int64_t k = 0; k < n; ++k) {
    V sum = k == 0 ? s[0] * (T(1) - s[0]) : s[k] - (s[0] + s[0]) * s[k];
    HIGHGRAD_UNROLL
    for (int64_t j = 1; j < k; ++j) {
      sum -= s[j] * s[k - j];
    }
    s[k + 1] = sum * inverse<T>(k + 1);
  }
}

// Of x g: x g_m + g_(m-1).
template <typename V>
HIGHGRAD_INLINE void times_argument(int64_t n, const V& x, const V* g, V* c) {
  HIGHGRAD_UNROLL
  for (int64_t m = 1; m <= n; ++m) {
    c[m] = x * g[m] + g[m - 1];
  }
}

// c[1], ..., c[n]. seed: of i to the element of the i-th seed. given: of m to a given c[m]. a, b, d: scratch of n + 1.
template <typename T, typename V, typename Seed, typename Given>
HIGHGRAD_INLINE void expand_element(
    const LocalEquation<T>& p,
    const Seed& seed,
    const Given& given,
    int64_t n,
    V* c,
    V* a,
    V* b,
    V* d) {
  switch (p.kind) {
    case LocalKind::kGiven:
      break;
    case LocalKind::kSolution:
      a[1] = V{} + T(1);
      c[0] = seed(0);
      b[0] = p.slope_is_seed ? seed(1) : slope_of_value(p.equation, c[0]);
      HIGHGRAD_UNROLL
      for (int64_t k = 1; k <= n; ++k) {
        advance_element(p.equation, k, /*terms=*/1, k < n, a, c, b);
      }
      return;
    case LocalKind::kSilu:
      a[0] = seed(1);
      sigmoid_series<T>(n, a);
      times_argument(n, seed(0), a, c);
      return;
    case LocalKind::kSoftplus: {
      const V x = seed(0) * p.rate;
      a[0] = x > p.threshold ? V{} + T(1) : seed(1);
      sigmoid_series<T>(n - 1, a);
      T power = 1;
      HIGHGRAD_UNROLL
      for (int64_t m = 1; m <= n; ++m) {
        c[m] = a[m - 1] * (power * inverse<T>(m));
        power *= p.rate;
      }
      return;
    }
    case LocalKind::kMish: {
      // t = tanh(softplus(x)), so t' = (1 - t^2) s; d = 1 - t^2.
      a[0] = seed(1);
      sigmoid_series<T>(n, a);
      const V rest = T(1) - a[0];
      b[0] = a[0] * (T(2) - a[0]) / (T(1) + rest * rest);
      d[0] = T(1) - b[0] * b[0];
      HIGHGRAD_UNROLL
      for (int64_t k = 0; k < n; ++k) {
        V sum = d[0] * a[k];
        HIGHGRAD_UNROLL
        for (int64_t j = 1; j <= k; ++j) {
          sum += d[j] * a[k - j];
        }
        b[k + 1] = sum * inverse<T>(k + 1);
        V square = b[0] * b[k + 1];
        HIGHGRAD_UNROLL
        for (int64_t j = 1; j <= k + 1; ++j) {
          square += b[j] * b[k + 1 - j];
        }
        d[k + 1] = -square;
      }
      times_argument(n, seed(0), b, c);
      return;
    }
    case LocalKind::kGelu: {
      // The density p has p' = -x p, and the slope's own slope is 2 p + x p'.
      const V x = seed(0);
      c[1] = seed(1);
      a[0] = seed(2) * static_cast<T>(0.3989422804014326779);
      HIGHGRAD_UNROLL
      for (int64_t m = 2; m <= n; ++m) {
        a[m - 1] = -(m == 2 ? x * a[0] : x * a[m - 2] + a[m - 3]) * inverse<T>(m - 1);
        c[m] = x * a[m - 1] * inverse<T>(m) + a[m - 2] * inverse<T>(m - 1);
      }
      return;
    }
    case LocalKind::kElu: {
      // At zero, torch has the slope of the decay and the curvature of the line.
      const V x = seed(0);
      const V zero{};
      a[0] = seed(1);
      HIGHGRAD_UNROLL
      for (int64_t m = 1; m <= n; ++m) {
        a[m] = a[m - 1] * (p.rate * inverse<T>(m));
        c[m] = m == 1 ? (x > T(0) ? zero + p.threshold : a[1]) : (x < T(0) ? a[m] : zero);
      }
      return;
    }
  }
  HIGHGRAD_UNROLL
  for (int64_t m = 1; m <= n; ++m) {
    c[m] = given(m);
  }
}

} // namespace highgrad::ops
