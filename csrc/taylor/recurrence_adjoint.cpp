// The reverse of solve_by_element: cotangents of the solution of y' = w x' to those of x, y_0 and w_0.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "ops/compose_jet.h"
#include "taylor/known_orders.h"
#include "taylor/lanes.h"
#include "taylor/recurrence.h"

namespace highgrad::taylor {
namespace {

// Elements of one task, at least: sums over samples are begun anew for each, so that they neither depend on the number
// of threads nor grow too long for the dtype.
constexpr int64_t kTask = 1 << 13;

template <typename T>
struct Problem {
  std::vector<DirectionGroup> groups;
  // The first row of order k at k - 1, of x and of the solution.
  std::vector<int64_t> first_rows;
  int64_t terms; // of x
  int64_t numel; // of one coefficient along one direction
  bool collapsed;
  // x has one order, of this many elements a direction, which repeat for all samples; or 0. Rows of x and of its
  // cotangent are then this many and one vector more long, so that what is read from any place in them is there.
  int64_t period;
  ops::ElementEquation<T> equation;
  bool derives_slope; // w_0 from y_0
  const T* weights; // [directions], or null for ones
  const T* y0; // [numel]
  const T* w0; // likewise, or null
  const T* x; // the rows of its jet
  const T* by_solution; // the rows of the solution's cotangent
  T* by_x; // for a period: the rows for every task
  T* by_y0;
  T* by_w0; // or null
};

template <typename T>
struct Stretch {
  alignas(64) T by_y[kStretch];
  alignas(64) T by_w[kStretch];
};

template <typename Known, typename T>
HIGHGRAD_INLINE void reverse_stretch(
    const Problem<T>& p,
    const DirectionGroup& group,
    int64_t begin,
    int64_t length,
    T* by_periodic,
    Stretch<T>& sums,
    typename Lanes<T>::Vector* scratch) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  constexpr int64_t kOrder = Known::kOrder;
  constexpr bool kCollapsed = Known::kCollapsed;
  const int64_t order = kOrder > 0 ? kOrder : group.order;
  const int64_t terms = kOrder > 0 ? Known::kTerms : std::min(p.terms, order);
  const int64_t own_terms = kCollapsed && terms == order ? terms - 1 : terms;
  OrderArrays<Known, T, 6> arrays(scratch, order);
  Vector* const dx = arrays[0];
  Vector* const y = arrays[1];
  Vector* const w = arrays[2];
  Vector* const by_dx = arrays[3];
  Vector* const by_y = arrays[4];
  Vector* const by_w = arrays[5];
  const ops::ElementEquation<T> equation = p.equation;
  const auto row = [&](int64_t k) { return p.first_rows[k - 1] * p.numel; };
  for (int64_t d = group.first; d < group.last; ++d) {
    const T weight = p.weights == nullptr ? T(1) : p.weights[d];
    int64_t position = p.period > 0 ? begin % p.period : 0;
    for (int64_t e = 0; e < length; e += kLanes) {
      const int64_t count = std::min(kLanes, length - e);
      const int64_t place = d * p.numel + begin + e;
      y[0] = load(p.y0 + begin + e, count);
      w[0] = p.derives_slope ? slope_of_value(equation, y[0]) : load(p.w0 + begin + e, count);
      const int64_t periodic_place = d * (p.period + kLanes) + position;
      by_y[0] = Vector{};
      by_w[0] = Vector{};
#pragma GCC unroll 8
      for (int64_t j = 1; j <= own_terms; ++j) {
        dx[j] = load(p.period > 0 ? p.x + periodic_place : p.x + row(j) + place, count) * static_cast<T>(j);
        by_dx[j] = Vector{};
      }
#pragma GCC unroll 8
      for (int64_t k = 1; k < order; ++k) {
        advance_element(equation, k, own_terms, true, dx, y, w);
        by_y[k] = load(p.by_solution + row(k) + place, count);
        by_w[k] = Vector{};
      }
      const Vector highest = kCollapsed ? load(p.by_solution + row(order) + begin + e, count) * weight
                                        : load(p.by_solution + row(order) + place, count);
      ops::reverse_integral<T>(order, std::min(order, own_terms), highest, dx, w, by_dx, by_w);
#pragma GCC unroll 8
      for (int64_t k = order - 1; k > 0; --k) {
        reverse_slope(equation, k, own_terms, by_w[k], dx, y, by_dx, by_y);
        ops::reverse_integral<T>(k, std::min(k, own_terms), by_y[k], dx, w, by_dx, by_w);
      }
      if (p.period > 0) {
        accumulate<T>(by_dx[1], by_periodic + periodic_place, count);
        position = next_place<T>(position, p.period);
      } else {
#pragma GCC unroll 8
        for (int64_t j = 1; j <= own_terms; ++j) {
          store<T>(by_dx[j] * static_cast<T>(j), p.by_x + row(j) + place, count);
        }
      }
      if (d > 0) {
        by_y[0] += load(sums.by_y + e, kLanes);
        by_w[0] += load(sums.by_w + e, kLanes);
      }
      store<T>(by_y[0], sums.by_y + e, kLanes);
      store<T>(by_w[0], sums.by_w + e, kLanes);
    }
  }
}

// The sums over all directions, and what does not depend on directions.
template <typename T>
HIGHGRAD_INLINE void finish_stretch(const Problem<T>& p, int64_t begin, int64_t length, const Stretch<T>& sums) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  const auto order = static_cast<int64_t>(p.first_rows.size());
  const int64_t highest = p.first_rows.back() * p.numel;
  for (int64_t e = 0; e < length; e += kLanes) {
    const int64_t count = std::min(kLanes, length - e);
    Vector by_value = load(sums.by_y + e, kLanes);
    Vector by_slope = load(sums.by_w + e, kLanes);
    const Vector value = load(p.y0 + begin + e, count);
    if (p.collapsed && p.terms == order) {
      const Vector cotangent = load(p.by_solution + highest + begin + e, count);
      const Vector slope = p.derives_slope ? slope_of_value(p.equation, value) : load(p.w0 + begin + e, count);
      by_slope += cotangent * load(p.x + highest + begin + e, count);
      store<T>(cotangent * slope, p.by_x + highest + begin + e, count);
    }
    if (p.derives_slope) {
      by_value += by_slope * (p.equation.linear + value * (2 * p.equation.square));
    } else {
      store<T>(by_slope, p.by_w0 + begin + e, count);
    }
    store<T>(by_value, p.by_y0 + begin + e, count);
  }
}

template <typename T>
HIGHGRAD_INLINE void reverse_any(const Problem<T>& p, int64_t begin, int64_t end, T* by_periodic) {
  Stretch<T> sums;
  Scratch<T> scratch(6 * (static_cast<int64_t>(p.first_rows.size()) + 1));
  for (int64_t first = begin; first < end; first += kStretch) {
    const int64_t length = std::min(kStretch, end - first);
    const auto reverse = [&](const DirectionGroup& group, auto known) HIGHGRAD_INLINE_LAMBDA {
      reverse_stretch<decltype(known)>(p, group, first, length, by_periodic, sums, scratch.get());
    };
    run_groups(p.groups, p.terms, p.collapsed, reverse);
    finish_stretch(p, first, length, sums);
  }
}

HIGHGRAD_VECTOR_WIDTHS
void reverse_range(const Problem<float>& problem, int64_t begin, int64_t end, float* by_periodic) {
  reverse_any(problem, begin, end, by_periodic);
}

HIGHGRAD_VECTOR_WIDTHS
void reverse_range(const Problem<double>& problem, int64_t begin, int64_t end, double* by_periodic) {
  reverse_any(problem, begin, end, by_periodic);
}

template <typename T>
Cotangents reverse(const Frame& frame, const Operands& operands, const Slope& slope, const at::Tensor& by_solution) {
  const at::Tensor y0 = operands.y0.contiguous();
  const at::Tensor w0 = operands.w0.defined() ? operands.w0.contiguous() : at::Tensor();
  const at::Tensor cotangents = by_solution.contiguous();
  const at::Tensor weights = frame.weights.defined() ? frame.weights.contiguous() : at::Tensor();
  const at::TensorOptions options = y0.options().memory_format(at::MemoryFormat::Contiguous);
  const int64_t period = operands.x.terms == 1 ? ops::find_period(operands.x.rows) : 0;
  const bool repeats = period > 0 && period < y0.numel();
  const at::Tensor x = repeats ? operands.x.rows : operands.x.rows.contiguous();
  Cotangents result{at::Tensor(), at::empty(y0.sizes(), options), at::Tensor()};
  if (repeats) {
    // Dimensions along which x repeats have size 1: autograd need not sum over them.
    c10::DimVector shape(x.sizes());
    for (const auto dim : c10::irange<int64_t>(1, x.dim())) {
      shape[dim] = x.stride(dim) == 0 ? 1 : shape[dim];
    }
    result.x = at::empty(shape, options);
  } else {
    result.x = at::empty(x.sizes(), options);
  }
  if (w0.defined()) {
    result.w0 = at::empty(y0.sizes(), options);
  }
  if (y0.numel() == 0) {
    result.x.zero_();
    return result;
  }
  Problem<T> problem{
      frame.groups(),
      frame.first_rows(),
      operands.x.terms,
      y0.numel(),
      frame.collapsed,
      0,
      element_equation<T>(slope),
      !w0.defined(),
      weights.defined() ? weights.const_data_ptr<T>() : nullptr,
      y0.const_data_ptr<T>(),
      w0.defined() ? w0.const_data_ptr<T>() : nullptr,
      x.const_data_ptr<T>(),
      cotangents.const_data_ptr<T>(),
      repeats ? nullptr : result.x.mutable_data_ptr<T>(),
      result.y0.mutable_data_ptr<T>(),
      w0.defined() ? result.w0.mutable_data_ptr<T>() : nullptr};
  const int64_t task_size = (std::max(kTask, 16 * period) + kStretch - 1) / kStretch * kStretch;
  const int64_t tasks = (problem.numel + task_size - 1) / task_size;
  std::vector<T> x_rows, by_x_rows;
  int64_t row_length = 0;
  if (repeats) {
    problem.period = whole_periods<T>(period);
    row_length = problem.period + Lanes<T>::kCount;
    x_rows = repeat_rows(problem.x, frame.directions, period, row_length);
    by_x_rows.resize(tasks * frame.directions * row_length);
    problem.x = x_rows.data();
  }
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (const auto task : c10::irange(begin, end)) {
      T* by_periodic = repeats ? by_x_rows.data() + task * frame.directions * row_length : nullptr;
      reverse_range(problem, task * task_size, std::min((task + 1) * task_size, problem.numel), by_periodic);
    }
  });
  if (repeats) {
    fold_rows(by_x_rows, frame.directions, row_length, period, result.x.mutable_data_ptr<T>());
  }
  return result;
}

} // namespace

Cotangents reverse_by_element(
    const Frame& frame,
    const Operands& operands,
    const Slope& slope,
    const at::Tensor& by_solution) {
  return frame.dtype == at::kFloat ? reverse<float>(frame, operands, slope, by_solution)
                                   : reverse<double>(frame, operands, slope, by_solution);
}

} // namespace highgrad::taylor
