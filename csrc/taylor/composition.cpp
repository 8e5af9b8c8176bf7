#include "taylor/composition.h"

#include <ATen/Parallel.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/empty.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "ops/compose_jet.h"
#include "taylor/composition_element.h"
#include "taylor/composition_program.h"
#include "taylor/known_orders.h"
#include "taylor/local_element.h"

namespace highgrad::taylor {
namespace {

// Elements of one task, at least: sums over samples are begun anew for each, so that they neither depend on the number
// of threads nor grow too long for the dtype.
constexpr int64_t kTask = 1 << 13;
constexpr int64_t kBlockBytes = 1 << 14;
constexpr int64_t kLargestBlock = 256;

// Of both ways: `in` and `out` are the rows of x and of y forward, those of their cotangents backward.
template <typename T>
struct Problem {
  std::vector<DirectionGroup> groups;
  std::vector<int64_t> first_rows; // of order k at k - 1
  std::shared_ptr<const CompositionProgram> program; // of multivariate jets
  int64_t order, terms, numel;
  bool collapsed;
  // x has one order, of this many elements a row, which repeat for all samples; or 0. Its rows are then one vector
  // longer, so that what is read from any place in them is there.
  int64_t period;
  LocalProblem<T> local;
  const T* weights; // [directions], or null for ones
  const T* x;
  const T* by_y; // backward
  T* y; // forward
  T* by_x; // backward; for a period: the rows for every task
  T* by_x0;

  bool is_multivariate() const {
    return program != nullptr;
  }
  // Along directions, a solution of a differential equation needs no series of its own: see solve_element.
  bool is_solved() const {
    return local.equation.kind == LocalKind::kSolution && !is_multivariate();
  }
  // Of x and its cotangent along one direction.
  int64_t x_place(int64_t row, int64_t begin, int64_t position) const {
    return period > 0 ? row * (period + Lanes<T>::kCount) + position : row * numel + begin;
  }
  // Of multivariate jets: elements that are looked at together, so that their rows stay in the nearest cache.
  int64_t block() const {
    const int64_t lanes = Lanes<T>::kCount;
    const int64_t fitting = kBlockBytes / (static_cast<int64_t>(sizeof(T)) * program->rows) / lanes * lanes;
    return std::clamp(fitting, lanes, kLargestBlock);
  }
};

// What one stretch of elements needs: phi's series, and sums over directions.
template <typename T>
struct Stretch {
  explicit Stretch(const Problem<T>& p)
      : series((p.order + 2) * kStretch), sums(kStretch), scratch(std::max(5 * (p.order + 1), 4 * (p.order + 3))) {
    if (p.is_multivariate()) {
      block.resize(p.program->rows * p.block());
      places.resize(p.program->rows);
    }
  }
  std::vector<T> series, sums;
  Scratch<T> scratch;
  // Of multivariate jets: memory for the rows of a block, and where they stand.
  std::vector<T> block;
  std::vector<T*> places;

  // c_m of the vector at e.
  HIGHGRAD_INLINE typename Lanes<T>::Vector at(int64_t m, int64_t e) const {
    return load(series.data() + (m - 1) * kStretch + e, Lanes<T>::kCount);
  }
};

// The rows of x, as far as directions have them for themselves.
template <typename T>
HIGHGRAD_INLINE void load_argument(
    const Problem<T>& p,
    int64_t terms,
    int64_t d,
    int64_t place,
    int64_t position,
    int64_t count,
    typename Lanes<T>::Vector* h) {
#pragma GCC unroll 8
  for (int64_t j = 1; j <= terms; ++j) {
    h[j] = load(p.x + p.x_place(p.first_rows[j - 1] + d, place, position), count);
  }
}

// y' = w x' by its recurrence, up to y_n and, or but for, w_n. h: the rows of x, of which j x_j is left.
template <typename T>
HIGHGRAD_INLINE void solve_element(
    const Problem<T>& p,
    int64_t order,
    int64_t terms,
    bool with_last_slope,
    int64_t place,
    int64_t count,
    typename Lanes<T>::Vector* h,
    typename Lanes<T>::Vector* y,
    typename Lanes<T>::Vector* w) {
  const ops::LocalEquation<T>& local = p.local.equation;
#pragma GCC unroll 8
  for (int64_t j = 2; j <= terms; ++j) {
    h[j] *= static_cast<T>(j);
  }
  y[0] = load(p.local.seeds[0] + place, count);
  w[0] = local.slope_is_seed ? load(p.local.seeds[1] + place, count) : ops::slope_of_value(local.equation, y[0]);
#pragma GCC unroll 8
  for (int64_t k = 1; k <= order; ++k) {
    ops::advance_element(local.equation, k, terms, with_last_slope || k < order, h, y, w);
  }
}

template <typename Known, typename T>
HIGHGRAD_INLINE void compose_stretch(
    const Problem<T>& p,
    const DirectionGroup& group,
    int64_t begin,
    int64_t length,
    Stretch<T>& stretch) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  constexpr bool kCollapsed = Known::kCollapsed;
  const Orders<Known> orders(group, p.terms);
  const int64_t order = orders.order, own = orders.own, terms = orders.terms, own_terms = orders.own_terms;
  OrderArrays<Known, T, 3> arrays(stretch.scratch.get(), order);
  Vector* const h = arrays[0];
  Vector* const y = arrays[1];
  Vector* const w = arrays[2];
  T* const sums = stretch.sums.data();
  for (int64_t d = group.first; d < group.last; ++d) {
    const T weight = p.weights == nullptr ? T(1) : p.weights[d];
    int64_t position = p.period > 0 ? begin % p.period : 0;
    for (int64_t e = 0; e < length; e += kLanes) {
      const int64_t count = std::min(kLanes, length - e);
      load_argument(p, own_terms, d, begin + e, position, count, h);
      if (p.is_solved()) {
        solve_element(p, order, own_terms, /*with_last_slope=*/false, begin + e, count, h, y, w);
      } else {
        const auto series = [&](int64_t m) HIGHGRAD_INLINE_LAMBDA { return m == 0 ? Vector{} : stretch.at(m, e); };
        compose_element(order, own_terms, h, series, y);
      }
#pragma GCC unroll 8
      for (int64_t k = 1; k <= own; ++k) {
        store<T>(y[k], p.y + (p.first_rows[k - 1] + d) * p.numel + begin + e, count);
      }
      if (kCollapsed) {
        add_direction<T>(d, y[order] * weight, sums + e);
      }
      position = next_place<T>(position, p.period);
    }
  }
  const int64_t highest = kCollapsed ? p.first_rows[own] * p.numel + begin : 0;
  for (int64_t e = 0; kCollapsed && e < length; e += kLanes) {
    const int64_t count = std::min(kLanes, length - e);
    Vector sum = load(sums + e, kLanes);
    if (terms == order) {
      sum += stretch.at(1, e) * load(p.x + highest + e, count);
    }
    store<T>(sum, p.y + highest + e, count);
  }
}

// by_periodic: the task's own rows of the cotangent of x, for a period.
template <typename Known, typename T>
HIGHGRAD_INLINE void reverse_stretch(
    const Problem<T>& p,
    const DirectionGroup& group,
    int64_t begin,
    int64_t length,
    T* by_periodic,
    Stretch<T>& stretch) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  constexpr bool kCollapsed = Known::kCollapsed;
  const Orders<Known> orders(group, p.terms);
  const int64_t order = orders.order, own_terms = orders.own_terms;
  OrderArrays<Known, T, 5> arrays(stretch.scratch.get(), order);
  Vector* const h = arrays[0];
  Vector* const y = arrays[1];
  Vector* const w = arrays[2];
  Vector* const by_y = arrays[3];
  Vector* const by_h = arrays[4];
  T* const sums = stretch.sums.data();
  for (int64_t d = group.first; d < group.last; ++d) {
    const T weight = p.weights == nullptr ? T(1) : p.weights[d];
    int64_t position = p.period > 0 ? begin % p.period : 0;
    for (int64_t e = 0; e < length; e += kLanes) {
      const int64_t count = std::min(kLanes, length - e);
      load_argument(p, own_terms, d, begin + e, position, count, h);
      load_cotangents<kCollapsed>(p, order, d, weight, begin + e, count, by_y);
      if (p.is_solved()) {
        solve_element(p, order, own_terms, /*with_last_slope=*/true, begin + e, count, h, y, w);
      } else {
        const auto slope = [&](int64_t m)
                               HIGHGRAD_INLINE_LAMBDA { return stretch.at(m + 1, e) * static_cast<T>(m + 1); };
        compose_element(order, own_terms, h, slope, w);
      }
      by_h[0] = d == 0 ? Vector{} : load(sums + e, kLanes);
#pragma GCC unroll 8
      for (int64_t k = 1; k <= order; ++k) {
        by_h[0] += by_y[k] * w[k];
      }
      store<T>(by_h[0], sums + e, kLanes);
#pragma GCC unroll 8
      for (int64_t j = 1; j <= own_terms; ++j) {
        by_h[j] = Vector{};
#pragma GCC unroll 8
        for (int64_t k = j; k <= order; ++k) {
          by_h[j] += by_y[k] * w[k - j];
        }
        T* const place =
            (p.period > 0 ? by_periodic : p.by_x) + p.x_place(p.first_rows[j - 1] + d, begin + e, position);
        store<T>(p.period > 0 ? load(place, count) + by_h[j] : by_h[j], place, count);
      }
      position = next_place<T>(position, p.period);
    }
  }
}

// What does not depend on directions.
template <typename T>
HIGHGRAD_INLINE void finish_reverse(const Problem<T>& p, int64_t begin, int64_t length, const Stretch<T>& stretch) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  const int64_t highest = p.first_rows.back() * p.numel + begin;
  for (int64_t e = 0; e < length; e += kLanes) {
    const int64_t count = std::min(kLanes, length - e);
    Vector by_value = load(stretch.sums.data() + e, kLanes);
    if (p.collapsed && p.terms == p.order) {
      const Vector cotangent = load(p.by_y + highest + e, count);
      by_value += cotangent * stretch.at(2, e) * T(2) * load(p.x + highest + e, count);
      store<T>(cotangent * stretch.at(1, e), p.by_x + highest + e, count);
    }
    store<T>(by_value, p.by_x0 + begin + e, count);
  }
}

// run(offset, place, length) for every stretch without a wrap of elements begin, begin + 1, ... of a row that repeats.
template <typename Run>
HIGHGRAD_INLINE void for_periods(int64_t period, int64_t begin, int64_t length, const Run& run) {
  int64_t place = begin % period;
  for (int64_t e = 0; e < length;) {
    const int64_t together = std::min(length - e, period - place);
    run(e, place, together);
    e += together;
    place = 0;
  }
}

// A block of elements of multivariate jets, whose first one is `offset` in the stretch that begins at `begin`.
template <typename T>
HIGHGRAD_INLINE void run_block(
    const Problem<T>& p,
    int64_t begin,
    int64_t offset,
    int64_t length,
    T* by_periodic,
    Stretch<T>& stretch) {
  const CompositionProgram& program = *p.program;
  const bool is_reverse = p.y == nullptr;
  const int64_t size = static_cast<int64_t>(stretch.block.size()) / program.rows;
  const int64_t first = begin + offset, row_length = p.period + Lanes<T>::kCount;
  T** const places = stretch.places.data();
  for (int64_t row = 0; row < program.rows; ++row) {
    places[row] = stretch.block.data() + row * size;
  }
  const auto place_rows = [&](int64_t to, const T* rows, int64_t count) HIGHGRAD_INLINE_LAMBDA {
    for (int64_t r = 0; r < count; ++r) {
      places[to + r] = const_cast<T*>(rows) + r * p.numel + first; // what is read is no sum of the program
    }
  };
  const int64_t x_rows = program.series - program.x;
  if (p.period > 0) {
    for_periods(p.period, first, length, [&](int64_t e, int64_t place, int64_t together) HIGHGRAD_INLINE_LAMBDA {
      for (int64_t r = 0; r < x_rows; ++r) {
        std::copy_n(p.x + r * row_length + place, together, places[program.x + r] + e);
      }
    });
  } else {
    place_rows(program.x, p.x, x_rows);
  }
  if (is_reverse) {
    const int64_t y_rows = program.by_y - program.y;
    place_rows(program.by_y, p.by_y, y_rows);
    for (int64_t m = 0; m <= p.order; ++m) {
      const T* const series = stretch.series.data() + m * kStretch + offset;
      for (int64_t e = 0; e < length; ++e) {
        places[program.series + m][e] = series[e] * static_cast<T>(m + 1);
      }
    }
    places[program.by_x0] = p.by_x0 + first;
    if (p.period == 0) {
      place_rows(program.by_x, p.by_x, x_rows);
    }
  } else {
    for (int64_t m = 0; m < p.order; ++m) {
      places[program.series + m] = stretch.series.data() + m * kStretch + offset;
    }
    place_rows(program.y, p.y, program.rows - program.y);
  }
  run_steps(program, places, length);
  if (is_reverse && p.period > 0) {
    for_periods(p.period, first, length, [&](int64_t e, int64_t place, int64_t together) HIGHGRAD_INLINE_LAMBDA {
      for (int64_t r = 0; r < x_rows; ++r) {
        T* const sums = by_periodic + r * row_length + place;
        const T* const found = places[program.by_x + r] + e;
        for (int64_t i = 0; i < together; ++i) {
          sums[i] += found[i];
        }
      }
    });
  }
}

template <typename T>
HIGHGRAD_INLINE void run_any(const Problem<T>& p, int64_t begin, int64_t end, T* by_periodic, Stretch<T>& stretch) {
  // Of a solution, what is not summed over directions takes the first two.
  const int64_t own_orders = p.y != nullptr ? p.order : p.order + 1;
  const int64_t orders = !p.is_solved() ? own_orders : p.collapsed && p.terms == p.order ? 2 : 0;
  for (int64_t first = begin; first < end; first += kStretch) {
    const int64_t length = std::min(kStretch, end - first);
    if (orders > 0) {
      expand_stretch(p.local, first, length, orders, stretch.series.data(), stretch.scratch.get());
    }
    if (p.is_multivariate()) {
      const int64_t block = p.block();
      for (int64_t offset = 0; offset < length; offset += block) {
        run_block(p, first, offset, std::min(block, length - offset), by_periodic, stretch);
      }
      continue;
    }
    run_groups(p.groups, p.terms, p.collapsed, [&](const DirectionGroup& group, auto known) HIGHGRAD_INLINE_LAMBDA {
      if (p.y != nullptr) {
        compose_stretch<decltype(known)>(p, group, first, length, stretch);
      } else {
        reverse_stretch<decltype(known)>(p, group, first, length, by_periodic, stretch);
      }
    });
    if (p.y == nullptr) {
      finish_reverse(p, first, length, stretch);
    }
  }
}

HIGHGRAD_VECTOR_WIDTHS
void run_range(const Problem<float>& p, int64_t begin, int64_t end, float* by_periodic, Stretch<float>& stretch) {
  run_any(p, begin, end, by_periodic, stretch);
}

HIGHGRAD_VECTOR_WIDTHS
void run_range(const Problem<double>& p, int64_t begin, int64_t end, double* by_periodic, Stretch<double>& stretch) {
  run_any(p, begin, end, by_periodic, stretch);
}

// Runs a problem whose `y`, or `by_y` and `by_x0`, are set, and `by_x` where x does not repeat; returns the cotangent
// of x. shape: of one coefficient.
template <typename T>
at::Tensor run(Problem<T>& p, const Jet& x, at::IntArrayRef shape) {
  const int64_t period = x.terms == 1 ? ops::find_period(x.rows) : 0;
  const bool repeats = period > 0 && period < p.numel;
  const at::Tensor rows = repeats ? x.rows : x.rows.contiguous();
  const int64_t count = rows.size(0);
  const bool is_reverse = p.y == nullptr;
  at::Tensor by_x;
  if (is_reverse) {
    // Dimensions along which x repeats have size 1: autograd need not sum over them.
    std::vector<int64_t> sizes = shape.vec();
    sizes.insert(sizes.begin(), count);
    for (const auto dim : c10::irange<int64_t>(1, rows.dim())) {
      sizes[dim] = repeats && rows.stride(dim) == 0 ? 1 : sizes[dim];
    }
    by_x = at::empty(sizes, rows.options().memory_format(at::MemoryFormat::Contiguous));
  }
  p.x = rows.const_data_ptr<T>();
  p.by_x = is_reverse && !repeats ? by_x.mutable_data_ptr<T>() : nullptr;
  const int64_t task_size = (std::max(kTask, 16 * period) + kStretch - 1) / kStretch * kStretch;
  const int64_t tasks = (p.numel + task_size - 1) / task_size;
  std::vector<T> x_rows, by_x_rows;
  int64_t row_length = 0;
  if (repeats) {
    p.period = whole_periods<T>(period);
    row_length = p.period + Lanes<T>::kCount;
    x_rows = repeat_rows(p.x, count, period, row_length);
    by_x_rows.resize(is_reverse ? tasks * count * row_length : 0);
    p.x = x_rows.data();
  }
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    Stretch<T> stretch(p);
    for (const auto task : c10::irange(begin, end)) {
      T* by_periodic = by_x_rows.empty() ? nullptr : by_x_rows.data() + task * count * row_length;
      run_range(p, task * task_size, std::min((task + 1) * task_size, p.numel), by_periodic, stretch);
    }
  });
  if (repeats && is_reverse) {
    fold_rows(by_x_rows, count, row_length, period, by_x.mutable_data_ptr<T>());
  }
  return by_x;
}

// A problem and the tensors that it points into.
template <typename T>
struct Held {
  std::vector<at::Tensor> tensors;
  Problem<T> problem;

  const T* pointer(const at::Tensor& tensor) {
    tensors.push_back(tensor.contiguous());
    return tensors.back().const_data_ptr<T>();
  }

  Held(const Frame& frame, const Jet& x, const LocalSeries& local, int64_t numel, bool is_reverse)
      : problem{
            frame.is_multivariate() ? std::vector<DirectionGroup>() : frame.groups(),
            frame.first_rows(),
            {},
            frame.order,
            x.terms,
            numel,
            frame.collapsed,
            0,
            {element_equation<T>(local), numel, {}},
            nullptr,
            nullptr,
            nullptr,
            nullptr,
            nullptr,
            nullptr} {
    if (frame.is_multivariate()) {
      problem.program = is_reverse ? reverse_program(frame, x.terms) : forward_program(frame, x.terms);
    }
    if (frame.weights.defined()) {
      problem.weights = pointer(frame.weights);
    }
    for (const at::Tensor& seed : local.seeds) {
      problem.local.seeds.push_back(pointer(seed));
    }
  }
};

template <typename T>
void compose(const Frame& frame, const Jet& x, const LocalSeries& local, at::Tensor& rows) {
  Held<T> held(frame, x, local, rows.numel() / rows.size(0), /*is_reverse=*/false);
  held.problem.y = rows.mutable_data_ptr<T>();
  run(held.problem, x, rows.sizes().slice(1));
}

template <typename T>
at::Tensor reverse(
    const Frame& frame,
    const Jet& x,
    const LocalSeries& local,
    const at::Tensor& by_rows,
    at::Tensor& by_x0) {
  Held<T> held(frame, x, local, by_x0.numel(), /*is_reverse=*/true);
  held.problem.by_y = held.pointer(by_rows);
  held.problem.by_x0 = by_x0.mutable_data_ptr<T>();
  return run(held.problem, x, by_x0.sizes());
}

// As the operators take it.
ops::Composition composition(const Frame& frame, const Jet& x, const LocalSeries& local) {
  std::vector<int64_t> counts = frame.counts;
  counts.resize(frame.order, frame.directions);
  return {element_equation<double>(local), local.seeds, x.terms, std::move(counts), frame.collapsed, frame.weights};
}

} // namespace

bool is_composed_by_element(const Frame& frame, const at::Tensor& rows, const at::Tensor& anchor) {
  const auto is_plain = [&](const at::Tensor& tensor) {
    return tensor.device() == anchor.device() && tensor.scalar_type() == frame.dtype &&
        !at::isTensorSubclassLike(tensor);
  };
  const bool has_kernel =
      anchor.is_cpu() || (!frame.is_multivariate() && ops::has_compose_jet(anchor.device(), frame.order));
  return (frame.dtype == at::kFloat || frame.dtype == at::kDouble) && has_kernel && is_plain(anchor) &&
      is_plain(rows) && rows.size(0) > 0 && anchor.numel() > 0 && rows.sizes().slice(1) == anchor.sizes();
}

at::Tensor compose_by_element(const Frame& frame, const Jet& x, const LocalSeries& local, at::IntArrayRef shape) {
  if (!x.rows.is_cpu()) {
    return ops::compose_jet(x.rows, composition(frame, x, local));
  }
  std::vector<int64_t> sizes = shape.vec();
  sizes.insert(sizes.begin(), frame.rows(frame.order));
  at::Tensor rows = at::empty(sizes, x.rows.options().memory_format(at::MemoryFormat::Contiguous));
  frame.dtype == at::kFloat ? compose<float>(frame, x, local, rows) : compose<double>(frame, x, local, rows);
  return rows;
}

ComposedCotangents reverse_composition(
    const Frame& frame,
    const Jet& x,
    const LocalSeries& local,
    const at::Tensor& by_rows) {
  if (!x.rows.is_cpu()) {
    auto [by_x, by_x0] = ops::compose_jet_backward(by_rows, x.rows, composition(frame, x, local));
    return {by_x, by_x0};
  }
  ComposedCotangents result{
      {}, at::empty(by_rows.sizes().slice(1), by_rows.options().memory_format(at::MemoryFormat::Contiguous))};
  result.x = frame.dtype == at::kFloat ? reverse<float>(frame, x, local, by_rows, result.x0)
                                       : reverse<double>(frame, x, local, by_rows, result.x0);
  return result;
}

} // namespace highgrad::taylor
