#include "taylor/recurrence.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/empty.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "ops/compose_jet.h"
#include "taylor/known_orders.h"
#include "taylor/lanes.h"

namespace highgrad::taylor {
namespace {

// Work of one task at least, in coefficients.
constexpr int64_t kGrainSize = 1 << 13;

template <typename T>
struct Problem {
  std::vector<DirectionGroup> groups;
  // The first row of order k at k - 1.
  std::vector<int64_t> first_rows;
  int64_t numel; // of one coefficient along one direction
  bool collapsed;
  // x has one order, of this many elements a direction, which repeat for all samples; or 0. Its rows are then one
  // vector longer, so that what is read from any place in them is there.
  int64_t period;
  ops::ElementEquation<T> equation;
  const T* weights; // [directions], or null for ones
  const T* y0; // [numel]
  const T* w0; // likewise, or null where y0 gives it
  std::vector<const T*> x; // of orders 1, 2, ...: [directions or 1, numel], or null for zero
  T* y; // the rows of the solution

  int64_t terms() const {
    return static_cast<int64_t>(x.size());
  }
};

// sums: [kStretch].
template <typename Known, typename T>
HIGHGRAD_INLINE void solve_stretch(
    const Problem<T>& p,
    const DirectionGroup& group,
    int64_t begin,
    int64_t length,
    T* sums,
    typename Lanes<T>::Vector* scratch) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  constexpr int64_t kOrder = Known::kOrder;
  constexpr bool kCollapsed = Known::kCollapsed;
  const int64_t order = kOrder > 0 ? kOrder : group.order;
  const int64_t terms = kOrder > 0 ? Known::kTerms : std::min(p.terms(), order);
  const int64_t own = kCollapsed ? order - 1 : order; // orders that directions have of their own
  const int64_t own_terms = kCollapsed && terms == order ? terms - 1 : terms;
  OrderArrays<Known, T, 3> arrays(scratch, order);
  Vector* const dx = arrays[0];
  Vector* const y = arrays[1];
  Vector* const w = arrays[2];
  const ops::ElementEquation<T> equation = p.equation;
  for (int64_t d = group.first; d < group.last; ++d) {
    const T weight = p.weights == nullptr ? T(1) : p.weights[d];
    int64_t position = p.period > 0 ? begin % p.period : 0;
    for (int64_t e = 0; e < length; e += kLanes) {
      const int64_t count = std::min(kLanes, length - e);
      const int64_t place = d * p.numel + begin + e;
      y[0] = load(p.y0 + begin + e, count);
      w[0] = p.w0 == nullptr ? slope_of_value(equation, y[0]) : load(p.w0 + begin + e, count);
      if (p.period > 0) {
        dx[1] = load(p.x[0] + d * (p.period + kLanes) + position, count);
        position = next_place<T>(position, p.period);
      } else {
#pragma GCC unroll 8
        for (int64_t j = 1; j <= own_terms; ++j) {
          dx[j] = p.x[j - 1] == nullptr ? Vector{} : load(p.x[j - 1] + place, count) * static_cast<T>(j);
        }
      }
#pragma GCC unroll 8
      for (int64_t k = 1; k <= own; ++k) {
        advance_element(equation, k, own_terms, k < order, dx, y, w);
        store<T>(y[k], p.y + p.first_rows[k - 1] * p.numel + place, count);
      }
      if (kCollapsed) {
        advance_element(equation, order, own_terms, false, dx, y, w);
        add_direction<T>(d, y[order] * weight, sums + e);
      }
    }
  }
  for (int64_t e = 0; kCollapsed && e < length; e += kLanes) {
    const int64_t count = std::min(kLanes, length - e);
    Vector sum = load(sums + e, kLanes);
    if (terms == order && p.x[own] != nullptr) {
      const Vector slope =
          p.w0 == nullptr ? slope_of_value(equation, load(p.y0 + begin + e, count)) : load(p.w0 + begin + e, count);
      sum += slope * load(p.x[own] + begin + e, count);
    }
    store<T>(sum, p.y + p.first_rows[own] * p.numel + begin + e, count);
  }
}

template <typename T>
HIGHGRAD_INLINE void solve_any(const Problem<T>& p, int64_t begin, int64_t end, Scratch<T>& scratch) {
  alignas(64) T sums[kStretch];
  for (int64_t first = begin; first < end; first += kStretch) {
    const int64_t length = std::min(kStretch, end - first);
    const auto solve = [&](const DirectionGroup& group, auto known) HIGHGRAD_INLINE_LAMBDA {
      solve_stretch<decltype(known)>(p, group, first, length, sums, scratch.get());
    };
    run_groups(p.groups, p.terms(), p.collapsed, solve);
  }
}

HIGHGRAD_VECTOR_WIDTHS
void solve_range(const Problem<float>& problem, int64_t begin, int64_t end, Scratch<float>& scratch) {
  solve_any(problem, begin, end, scratch);
}

HIGHGRAD_VECTOR_WIDTHS
void solve_range(const Problem<double>& problem, int64_t begin, int64_t end, Scratch<double>& scratch) {
  solve_any(problem, begin, end, scratch);
}

template <typename T>
at::Tensor solve(const Frame& frame, const Series& x, const at::Tensor& y0, const at::Tensor& w0, const Slope& slope) {
  // What pointers point into is kept alive here.
  std::vector<at::Tensor> held;
  const auto pointer = [&](const at::Tensor& tensor) -> const T* {
    if (!tensor.defined()) {
      return nullptr;
    }
    held.push_back(tensor.contiguous());
    return held.back().const_data_ptr<T>();
  };
  c10::DimVector shape(y0.sizes());
  shape.insert(shape.begin(), frame.rows(frame.order));
  at::Tensor rows = at::empty(shape, y0.options().memory_format(at::MemoryFormat::Contiguous));
  if (rows.numel() == 0) {
    return rows;
  }
  const int64_t numel = y0.numel();
  Problem<T> problem{
      frame.groups(),
      frame.first_rows(),
      numel,
      frame.collapsed,
      0,
      element_equation<T>(slope),
      pointer(frame.weights),
      pointer(y0),
      pointer(w0),
      {},
      rows.mutable_data_ptr<T>()};
  const int64_t period = x.terms() == 1 && x[1].defined() ? ops::find_period(x[1]) : 0;
  std::vector<T> repeated;
  if (period > 0 && period < numel) {
    problem.period = whole_periods<T>(period);
    repeated = repeat_rows(x[1].const_data_ptr<T>(), frame.directions, period, problem.period + Lanes<T>::kCount);
    problem.x.push_back(repeated.data());
  } else {
    for (const auto k : c10::irange<int64_t>(1, std::min(x.terms(), frame.order) + 1)) {
      problem.x.push_back(pointer(x[k]));
    }
  }
  const int64_t stretches = (numel + kStretch - 1) / kStretch;
  const int64_t work = kStretch * frame.order * frame.directions;
  at::parallel_for(0, stretches, std::max<int64_t>(1, kGrainSize / work), [&](int64_t begin, int64_t end) {
    Scratch<T> scratch(3 * (frame.order + 1));
    solve_range(problem, begin * kStretch, std::min(end * kStretch, numel), scratch);
  });
  return rows;
}

} // namespace

at::Tensor slope_of_value(const Slope& slope, const at::Tensor& y0) {
  if (slope.square == 0) {
    const at::Tensor product = slope.linear == 1 ? y0 : y0 * slope.linear;
    return slope.constant == 0 ? product : product + slope.constant;
  }
  if (slope.linear == 0) {
    return slope.square == -1 ? slope.constant - y0 * y0 : slope.constant + y0 * y0 * slope.square;
  }
  const at::Tensor product = y0 * (slope.linear + y0 * slope.square);
  return slope.constant == 0 ? product : product + slope.constant;
}

bool is_solved_by_element(const Frame& frame, const Series& x, const at::Tensor& y0, const at::Tensor& w0) {
  const auto is_plain = [&](const at::Tensor& tensor) {
    return tensor.device().is_cpu() && tensor.scalar_type() == frame.dtype && !at::isTensorSubclassLike(tensor);
  };
  bool serves = (frame.dtype == at::kFloat || frame.dtype == at::kDouble) && frame.directions > 0 && is_plain(y0) &&
      (!w0.defined() || (is_plain(w0) && w0.sizes() == y0.sizes()));
  for (const auto k : c10::irange<int64_t>(1, std::min(x.terms(), frame.order) + 1)) {
    serves = serves && (!x[k].defined() || (is_plain(x[k]) && x[k].sizes().slice(1) == y0.sizes()));
  }
  return serves;
}

at::Tensor solve_by_element(
    const Frame& frame,
    const Series& x,
    const at::Tensor& y0,
    const at::Tensor& w0,
    const Slope& slope) {
  return frame.dtype == at::kFloat ? solve<float>(frame, x, y0, w0, slope) : solve<double>(frame, x, y0, w0, slope);
}

} // namespace highgrad::taylor
