#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "taylor/jet.h"
#include "taylor/lanes.h"
#include "taylor/polynomials.h"

// One element of a composition, with the coefficients of all orders one after another: a number for each order along a
// line, a polynomial for each order of multivariate jets. `V` is a number, or a vector of them.

namespace highgrad::taylor {

struct Line {
  HIGHGRAD_INLINE int64_t first(int64_t k) const {
    return k;
  }
  HIGHGRAD_INLINE int64_t count(int64_t /*k*/) const {
    return 1;
  }
  template <typename V>
  HIGHGRAD_INLINE void clear(int64_t k, V* sum) const {
    sum[k] = V{};
  }
  // sum_(j+l) += a_j b_l, for j > 0
  template <typename V>
  HIGHGRAD_INLINE void add_product(int64_t j, int64_t l, const V* a, const V* b, V* sum) const {
    sum[j + l] += a[j] * b[l];
  }
  // Its reverse: sum_j += the cotangent of order j + l times b_l, for any j.
  template <typename V>
  HIGHGRAD_INLINE void correlate(int64_t j, int64_t l, const V* cotangents, const V* b, V* sum) const {
    sum[j] += cotangents[j + l] * b[l];
  }
};

struct Polynomials {
  std::vector<int64_t> first_; // coefficient of order k, up to one past the highest
  std::vector<Ranks> ranks_; // of products of orders j and l, at j * (highest + 1) + l

  Polynomials() = default;
  explicit Polynomials(const Frame& frame) : ranks_((frame.order + 1) * (frame.order + 1)) {
    for (int64_t k = 0; k <= frame.order + 1; ++k) {
      first_.push_back(k == 0 ? 0 : frame.rows(k - 1) + 1);
    }
    for (int64_t j = 1; j <= frame.order; ++j) {
      for (int64_t l = 1; j + l <= frame.order; ++l) {
        ranks_[j * (frame.order + 1) + l] = product_ranks(frame.variables, j, l);
      }
    }
  }

  HIGHGRAD_INLINE int64_t first(int64_t k) const {
    return first_[k];
  }
  HIGHGRAD_INLINE int64_t count(int64_t k) const {
    return first_[k + 1] - first_[k];
  }
  const int32_t* ranks(int64_t j, int64_t l) const {
    return ranks_[j * (static_cast<int64_t>(first_.size()) - 1) + l]->data();
  }
  template <typename V>
  HIGHGRAD_INLINE void clear(int64_t k, V* sum) const {
    std::fill(sum + first(k), sum + first(k + 1), V{});
  }
  template <typename V>
  HIGHGRAD_INLINE void add_product(int64_t j, int64_t l, const V* a, const V* b, V* sum) const {
    const int64_t rows = count(j), columns = count(l);
    a += first(j);
    b += first(l);
    sum += first(j + l);
    if (l == 0) {
      for (int64_t r = 0; r < rows; ++r) {
        sum[r] += a[r] * b[0];
      }
      return;
    }
    const int32_t* rank = ranks(j, l);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        sum[rank[r * columns + c]] += a[r] * b[c];
      }
    }
  }
  template <typename V>
  HIGHGRAD_INLINE void correlate(int64_t j, int64_t l, const V* cotangents, const V* b, V* sum) const {
    const int64_t rows = count(j), columns = count(l);
    cotangents += first(j + l);
    b += first(l);
    sum += first(j);
    if (l == 0) {
      for (int64_t r = 0; r < rows; ++r) {
        sum[r] += cotangents[r] * b[0];
      }
      return;
    }
    if (j == 0) {
      for (int64_t c = 0; c < columns; ++c) {
        sum[0] += cotangents[c] * b[c];
      }
      return;
    }
    const int32_t* rank = ranks(j, l);
    for (int64_t r = 0; r < rows; ++r) {
      V total = sum[r];
      for (int64_t c = 0; c < columns; ++c) {
        total += cotangents[rank[r * columns + c]] * b[c];
      }
      sum[r] = total;
    }
  }
};

// The composition of sum_m c_m h^m with the series h of `terms` orders and no value, up to `order`, by Horner's rule.
// coefficient: of m to c_m. y: of all orders, the first of which is c_0.
template <typename Algebra, typename V, typename Coefficient>
HIGHGRAD_INLINE void compose_element(
    const Algebra& algebra,
    int64_t order,
    int64_t terms,
    const V* h,
    const Coefficient& coefficient,
    V* y) {
  y[0] = coefficient(order);
#pragma GCC unroll 8
  for (int64_t m = order - 1; m >= 0; --m) {
    // Highest first: y_k is made of lower orders of what stands there.
#pragma GCC unroll 8
    for (int64_t k = order - m; k > 0; --k) {
      algebra.clear(k, y);
      const int64_t last = k < terms ? k : terms;
#pragma GCC unroll 8
      for (int64_t j = 1; j <= last; ++j) {
        algebra.add_product(j, k - j, h, y, y);
      }
    }
    y[0] = coefficient(m);
  }
}

} // namespace highgrad::taylor
