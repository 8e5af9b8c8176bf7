#pragma once

#include <algorithm>
#include <vector>

#include "ops/local_element.h"
#include "taylor/lanes.h"
#include "taylor/local_series.h"

// The series of LocalSeries, element by element.

namespace highgrad::taylor {

template <typename T>
struct LocalProblem {
  ops::LocalEquation<T> equation;
  int64_t numel;
  std::vector<const T*> seeds;
};

template <typename T>
ops::LocalEquation<T> element_equation(const LocalSeries& local) {
  const Slope& slope = local.slope;
  return {
      local.kind,
      local.seeds.size() > 1,
      {static_cast<T>(slope.constant),
       static_cast<T>(slope.linear),
       static_cast<T>(slope.square),
       static_cast<T>(slope.companion)},
      static_cast<T>(local.rate),
      static_cast<T>(local.threshold)};
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
    const int64_t count = std::min(kLanes, length - e);
    const auto seed = [&](size_t i) HIGHGRAD_INLINE_LAMBDA { return load(p.seeds[i] + begin + e, count); };
    const auto given = [&](int64_t m)
                           HIGHGRAD_INLINE_LAMBDA { return load(p.seeds[0] + (m - 1) * p.numel + begin + e, count); };
    ops::expand_element(p.equation, seed, given, n, c, a, b, d);
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
