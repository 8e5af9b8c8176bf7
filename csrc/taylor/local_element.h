#pragma once

#include <algorithm>

#include "taylor/lanes.h"
#include "taylor/local_series.h"
#include "taylor/recurrence_element.h"

// The series of LocalSeries, element by element: each recurrence is that of a differential equation in x itself.

namespace highgrad::taylor {

template <typename T>
struct LocalProblem {
  LocalKind kind;
  int64_t numel;
  std::vector<const T*> seeds;
  ElementEquation<T> equation;
  T rate, threshold;
};

// s' = s (1 - s), up to order n.
template <typename T, typename V>
HIGHGRAD_INLINE void sigmoid_series(int64_t n, V* s) {
#pragma GCC unroll 8
  for (int64_t k = 0; k < n; ++k) {
    V sum = k == 0 ? s[0] * (T(1) - s[0]) : s[k] - (s[0] + s[0]) * s[k];
#pragma GCC unroll 8
    for (int64_t j = 1; j < k; ++j) {
      sum -= s[j] * s[k - j];
    }
    s[k + 1] = sum * inverse<T>(k + 1);
  }
}

// Of x g: x g_m + g_(m-1).
template <typename V>
HIGHGRAD_INLINE void times_argument(int64_t n, const V& x, const V* g, V* c) {
#pragma GCC unroll 8
  for (int64_t m = 1; m <= n; ++m) {
    c[m] = x * g[m] + g[m - 1];
  }
}

// c[1], ..., c[n] of up to kCount elements; a, b, d: scratch of n + 1.
template <typename T, typename V>
HIGHGRAD_INLINE void expand_element(
    const LocalProblem<T>& p,
    int64_t place,
    int64_t count,
    int64_t n,
    V* c,
    V* a,
    V* b,
    V* d) {
  const auto seed = [&](size_t i) __attribute__((always_inline)) { return load(p.seeds[i] + place, count); };
  switch (p.kind) {
    case LocalKind::kGiven:
      break;
    case LocalKind::kSolution:
      a[1] = V{} + T(1);
      c[0] = seed(0);
      b[0] = p.seeds.size() > 1 ? seed(1) : slope_of_value(p.equation, c[0]);
#pragma GCC unroll 8
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
#pragma GCC unroll 8
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
#pragma GCC unroll 8
      for (int64_t k = 0; k < n; ++k) {
        V sum = d[0] * a[k];
#pragma GCC unroll 8
        for (int64_t j = 1; j <= k; ++j) {
          sum += d[j] * a[k - j];
        }
        b[k + 1] = sum * inverse<T>(k + 1);
        V square = b[0] * b[k + 1];
#pragma GCC unroll 8
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
#pragma GCC unroll 8
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
#pragma GCC unroll 8
      for (int64_t m = 1; m <= n; ++m) {
        a[m] = a[m - 1] * (p.rate * inverse<T>(m));
        c[m] = m == 1 ? (x > T(0) ? zero + p.threshold : a[1]) : (x < T(0) ? a[m] : zero);
      }
      return;
    }
  }
#pragma GCC unroll 8
  for (int64_t m = 1; m <= n; ++m) {
    c[m] = load(p.seeds[0] + (m - 1) * p.numel + place, count);
  }
}

// The rows c_1, ..., c_n of `length` elements, each row kStretch long, the first at `rows`. kN: n as a constant, or 0
// for any. scratch: 4 (n + 2).
template <int64_t kN, typename T>
HIGHGRAD_INLINE void expand_stretch(
    const LocalProblem<T>& p,
    int64_t begin,
    int64_t length,
    int64_t n,
    T* rows,
    typename Lanes<T>::Vector* scratch) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  n = kN > 0 ? kN : n;
  Vector arrays[4][kN + 2];
  Vector* const c = kN > 0 ? arrays[0] : scratch;
  Vector* const a = kN > 0 ? arrays[1] : c + n + 2;
  Vector* const b = kN > 0 ? arrays[2] : a + n + 2;
  Vector* const d = kN > 0 ? arrays[3] : b + n + 2;
  for (int64_t e = 0; e < length; e += kLanes) {
    expand_element(p, begin + e, std::min(kLanes, length - e), n, c, a, b, d);
#pragma GCC unroll 8
    for (int64_t m = 1; m <= n; ++m) {
      store<T>(c[m], rows + (m - 1) * kStretch + e, kLanes);
    }
  }
}

template <typename T>
HIGHGRAD_INLINE void expand_stretch(
    const LocalProblem<T>& p,
    int64_t begin,
    int64_t length,
    int64_t n,
    T* rows,
    typename Lanes<T>::Vector* scratch) {
  if (n == 2) {
    expand_stretch<2>(p, begin, length, n, rows, scratch);
  } else if (n == 3) {
    expand_stretch<3>(p, begin, length, n, rows, scratch);
  } else {
    expand_stretch<0>(p, begin, length, n, rows, scratch);
  }
}

} // namespace highgrad::taylor
