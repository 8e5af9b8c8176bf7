#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "taylor/jet.h"
#include "taylor/lanes.h"
#include "taylor/vector_width.h"

namespace highgrad::taylor {

// What a loop over directions is compiled for: the order of their group and the terms of x, or 0 for any, and whether
// the highest order is collapsed.
template <int64_t order, int64_t terms, bool collapsed>
struct Known {
  static constexpr int64_t kOrder = order;
  static constexpr int64_t kTerms = terms;
  static constexpr bool kCollapsed = collapsed;
};

// The orders of one group of directions, constants where they are known.
template <typename Known>
struct Orders {
  int64_t order;
  int64_t own; // that directions have for themselves: a collapsed one they share
  int64_t terms; // of x
  int64_t own_terms;

  HIGHGRAD_INLINE Orders(const DirectionGroup& group, int64_t all_terms)
      : order(Known::kOrder > 0 ? Known::kOrder : group.order),
        own(Known::kCollapsed ? order - 1 : order),
        terms(Known::kOrder > 0 ? Known::kTerms : std::min(all_terms, order)),
        own_terms(std::min(own, terms)) {}
};

// Arrays of the vectors of all orders, the value's among them: in registers where the order is known, else in scratch
// memory.
template <typename Known, typename T, int64_t count>
class OrderArrays {
  using Vector = typename Lanes<T>::Vector;

 public:
  HIGHGRAD_INLINE OrderArrays(Vector* scratch, int64_t order) : scratch_(scratch), length_(order + 1) {}
  HIGHGRAD_INLINE Vector* operator[](int64_t i) {
    return Known::kOrder > 0 ? known_[i] : scratch_ + i * length_;
  }

 private:
  Vector known_[count][Known::kOrder + 1];
  Vector* scratch_;
  int64_t length_;
};

// The cotangents of all orders along direction d, by problem.by_y; that of a collapsed order is one for all directions.
template <bool kCollapsed, typename Problem, typename T>
HIGHGRAD_INLINE void load_cotangents(
    const Problem& problem,
    int64_t order,
    int64_t d,
    T weight,
    int64_t place,
    int64_t count,
    typename Lanes<T>::Vector* by_y) {
#pragma GCC unroll 8
  for (int64_t k = 1; k <= order; ++k) {
    const bool is_sum = kCollapsed && k == order;
    const int64_t row = problem.first_rows[k - 1] + (is_sum ? 0 : d);
    const auto cotangent = load(problem.by_y + row * problem.numel + place, count);
    by_y[k] = is_sum ? cotangent * weight : cotangent;
  }
}

// run(group, Known<...>()) for a group of directions, where x has `terms` orders. What collapses has orders above 1.
template <bool kCollapsed, typename Run>
HIGHGRAD_INLINE void run_group(const DirectionGroup& group, int64_t terms, const Run& run) {
  const int64_t own_terms = std::min(terms, group.order);
  const bool is_full = own_terms == group.order;
  if (group.order == 1 && is_full) {
    run(group, Known<1, 1, false>());
  } else if (group.order == 2 && is_full) {
    run(group, Known<2, 2, kCollapsed>());
  } else if (group.order == 2 && own_terms == 1) {
    run(group, Known<2, 1, kCollapsed>());
  } else if (group.order == 3 && is_full) {
    run(group, Known<3, 3, kCollapsed>());
  } else if (group.order == 4 && is_full) {
    run(group, Known<4, 4, kCollapsed>());
  } else {
    run(group, Known<0, 0, kCollapsed>());
  }
}

template <typename Run>
HIGHGRAD_INLINE void run_groups(
    const std::vector<DirectionGroup>& groups,
    int64_t terms,
    bool collapsed,
    const Run& run) {
  for (const DirectionGroup& group : groups) {
    if (collapsed) {
      run_group<true>(group, terms, run);
    } else {
      run_group<false>(group, terms, run);
    }
  }
}

} // namespace highgrad::taylor
