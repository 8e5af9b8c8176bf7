#pragma once

#include <cstdint>

#include "taylor/lanes.h"

namespace highgrad::taylor {

// One element along one direction: the composition of sum_m c_m h^m with the series h of `terms` orders and no value,
// up to `order`, by Horner's rule. coefficient: of m to c_m. y: of all orders, the first of which is c_0. `V` is a
// number, or a vector of them.
template <typename V, typename Coefficient>
HIGHGRAD_INLINE void compose_element(int64_t order, int64_t terms, const V* h, const Coefficient& coefficient, V* y) {
  y[0] = coefficient(order);
#pragma GCC unroll 8
  for (int64_t m = order - 1; m >= 0; --m) {
    // Highest first: y_k is made of lower orders of what stands there.
#pragma GCC unroll 8
    for (int64_t k = order - m; k > 0; --k) {
      y[k] = V{};
      const int64_t last = k < terms ? k : terms;
#pragma GCC unroll 8
      for (int64_t j = 1; j <= last; ++j) {
        y[k] += h[j] * y[k - j];
      }
    }
    y[0] = coefficient(m);
  }
}

} // namespace highgrad::taylor
