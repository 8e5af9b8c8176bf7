#include "taylor/recurrence.h"

#include <ATen/Parallel.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "taylor/vector_width.h"

namespace highgrad::taylor {
namespace {

constexpr int64_t kGrainSize = 1 << 13;

// Elements that are solved together, as vectors that the compiler cuts to the width that there is. Sums over orders
// stay in registers.
template <typename T>
struct alignas(64) Block {
  typedef T Vector __attribute__((vector_size(64)));
  static constexpr int64_t kVectors = 4;
  static constexpr int64_t kLanes = 64 / sizeof(T);
  static constexpr int64_t kElements = kVectors * kLanes;
  Vector lanes[kVectors];

  HIGHGRAD_INLINE void load(const T* source, int64_t length) {
    if (length == kElements) {
      for (int64_t i = 0; i < kVectors; ++i) {
        std::memcpy(&lanes[i], source + i * kLanes, sizeof(Vector));
      }
    } else {
      std::memcpy(lanes, source, static_cast<size_t>(length) * sizeof(T));
    }
  }
  HIGHGRAD_INLINE void store(T* place, int64_t length) const {
    if (length == kElements) {
      for (int64_t i = 0; i < kVectors; ++i) {
        std::memcpy(place + i * kLanes, &lanes[i], sizeof(Vector));
      }
    } else {
      std::memcpy(place, lanes, static_cast<size_t>(length) * sizeof(T));
    }
  }
  HIGHGRAD_INLINE void scale(T factor) {
    for (Vector& lane : lanes) {
      lane *= factor;
    }
  }
  HIGHGRAD_INLINE void add_product(const Block& a, const Block& b) {
    for (int64_t i = 0; i < kVectors; ++i) {
      lanes[i] += a.lanes[i] * b.lanes[i];
    }
  }
  HIGHGRAD_INLINE void add_scaled(const Block& a, T factor) {
    for (int64_t i = 0; i < kVectors; ++i) {
      lanes[i] += a.lanes[i] * factor;
    }
  }
};

template <typename T>
struct Problem {
  int64_t order;
  int64_t directions;
  int64_t numel; // of one coefficient along one direction
  bool collapsed;
  Slope slope;
  const T* weights; // [directions], or null for ones
  const T* y0; // [numel]
  const T* w0;
  std::vector<const T*> x; // of orders 1, 2, ...: [directions or 1, numel], or null for zero
  T* y; // the rows of the solution

  int64_t terms() const {
    return static_cast<int64_t>(x.size());
  }
  // Elements of all directions lie one after another; a collapsed sum runs over the directions of one.
  int64_t elements() const {
    return collapsed ? numel : directions * numel;
  }
};

// The coefficients of one block, by order.
template <typename T>
struct Scratch {
  std::vector<Block<T>> y, w, dx; // dx: j x_j

  explicit Scratch(int64_t order) : y(order + 1, Block<T>{}), w(order + 1, Block<T>{}), dx(order + 1, Block<T>{}) {}
};

// The sum over j in [1, last] of (j x_j) b_(k-j).
template <typename T>
HIGHGRAD_INLINE void convolve(const Block<T>* dx, const Block<T>* b, int64_t k, int64_t last, Block<T>& result) {
  Block<T> sum{};
  for (int64_t j = 1; j <= last; ++j) {
    sum.add_product(dx[j], b[k - j]);
  }
  result = sum;
}

// Coefficient k of w from those of y up to k.
template <typename T>
HIGHGRAD_INLINE void advance_slope(
    const Slope& slope,
    const Block<T>* dx,
    const Block<T>* y,
    int64_t k,
    int64_t last,
    Block<T>& result) {
  if (slope.companion != 0) {
    convolve(dx, y, k, last, result);
    result.scale(static_cast<T>(slope.companion / static_cast<double>(k)));
    return;
  }
  Block<T> sum{};
  if (slope.square != 0) {
    for (int64_t j = 0; 2 * j < k; ++j) {
      sum.add_product(y[j], y[k - j]);
    }
    sum.scale(2);
    if (k % 2 == 0) {
      sum.add_product(y[k / 2], y[k / 2]);
    }
    sum.scale(static_cast<T>(slope.square));
  }
  sum.add_scaled(y[k], static_cast<T>(slope.linear));
  result = sum;
}

// A block of elements along directions d = 0, ..., directions - 1, whose coefficients lie d * numel further on.
template <typename T>
HIGHGRAD_INLINE void solve_block(
    const Problem<T>& p,
    int64_t first,
    int64_t length,
    int64_t directions,
    Scratch<T>& scratch) {
  Block<T>* y = scratch.y.data();
  Block<T>* w = scratch.w.data();
  Block<T>* dx = scratch.dx.data();
  if (first % p.numel + length <= p.numel) {
    y[0].load(p.y0 + first % p.numel, length);
    w[0].load(p.w0 + first % p.numel, length);
  } else {
    T values[2][Block<T>::kElements];
    for (int64_t e = 0; e < length; ++e) {
      values[0][e] = p.y0[(first + e) % p.numel];
      values[1][e] = p.w0[(first + e) % p.numel];
    }
    y[0].load(values[0], length);
    w[0].load(values[1], length);
  }
  const int64_t terms = p.terms();
  const int64_t separate = p.collapsed ? p.order - 1 : p.order; // orders that directions have of their own
  Block<T> collapsed{};
  for (int64_t d = 0; d < directions; ++d) {
    const int64_t offset = d * p.numel + first;
    for (int64_t j = 1; j <= std::min(terms, separate); ++j) {
      if (p.x[j - 1] != nullptr) {
        dx[j].load(p.x[j - 1] + offset, length);
        dx[j].scale(static_cast<T>(j));
      }
    }
    for (int64_t k = 1; k <= separate; ++k) {
      convolve(dx, w, k, std::min(k, terms), y[k]);
      y[k].scale(static_cast<T>(1.0 / static_cast<double>(k)));
      y[k].store(p.y + (k - 1) * p.directions * p.numel + offset, length);
      if (k < p.order) {
        advance_slope(p.slope, dx, y, k, std::min(k, terms), w[k]);
      }
    }
    if (p.collapsed) {
      Block<T> last;
      convolve(dx, w, p.order, std::min(p.order - 1, terms), last);
      collapsed.add_scaled(last, p.weights == nullptr ? T(1) : p.weights[d]);
    }
  }
  if (p.collapsed) {
    collapsed.scale(static_cast<T>(1.0 / static_cast<double>(p.order)));
    if (terms == p.order && p.x.back() != nullptr) {
      Block<T> last{};
      last.load(p.x.back() + first, length);
      collapsed.add_product(w[0], last);
    }
    collapsed.store(p.y + separate * p.directions * p.numel + first, length);
  }
}

template <typename T>
HIGHGRAD_INLINE void solve_blocks(const Problem<T>& p, int64_t begin, int64_t end, Scratch<T>& scratch) {
  constexpr int64_t kElements = Block<T>::kElements;
  for (int64_t first = begin * kElements; first < std::min(end * kElements, p.elements()); first += kElements) {
    solve_block(p, first, std::min(kElements, p.elements() - first), p.collapsed ? p.directions : 1, scratch);
  }
}

HIGHGRAD_VECTOR_WIDTHS
void solve_range(const Problem<float>& problem, int64_t begin, int64_t end, Scratch<float>& scratch) {
  solve_blocks(problem, begin, end, scratch);
}

HIGHGRAD_VECTOR_WIDTHS
void solve_range(const Problem<double>& problem, int64_t begin, int64_t end, Scratch<double>& scratch) {
  solve_blocks(problem, begin, end, scratch);
}

// Note [Collapsed second order]
// y_1 = w x_1 and y_2 = w x_2 + w' sum_d x_1^2 / 2 over directions d: elements are streamed, direction after direction,
// beside a sum that stays in the nearest cache. x_1 may repeat for all samples, as behind the first layer of a network.
template <typename T>
struct SecondOrder {
  int64_t directions;
  int64_t numel;
  int64_t period; // x_1 has this many elements a direction, which repeat
  Slope slope;
  const T* weights; // or null for ones
  const T* y0;
  const T* w0;
  const T* first; // x_1
  const T* second; // x_2, or null
  T* y;
};

// Elements at once.
constexpr int64_t kStretch = 1024;

template <typename T>
HIGHGRAD_INLINE void solve_stretch(const SecondOrder<T>& p, int64_t begin, int64_t length, T* sum) {
  for (int64_t e = 0; e < length; ++e) {
    sum[e] = 0;
  }
  const T* w = p.w0 + begin;
  for (int64_t d = 0; d < p.directions; ++d) {
    const T* x = p.first + d * p.period + begin % p.period;
    T* y = p.y + d * p.numel + begin;
    const T weight = p.weights == nullptr ? T(1) : p.weights[d];
    for (int64_t e = 0; e < length; ++e) {
      const T value = x[e];
      y[e] = w[e] * value;
      sum[e] += weight * value * value;
    }
  }
  const T* y0 = p.y0 + begin;
  T* y = p.y + p.directions * p.numel + begin;
  const T linear = static_cast<T>(p.slope.linear / 2), square = static_cast<T>(p.slope.square);
  const T companion = static_cast<T>(p.slope.companion / 2);
  for (int64_t e = 0; e < length; ++e) {
    y[e] = sum[e] * (companion != 0 ? companion * y0[e] : (linear + square * y0[e]) * w[e]);
  }
  if (p.second != nullptr) {
    const T* x = p.second + begin;
    for (int64_t e = 0; e < length; ++e) {
      y[e] += w[e] * x[e];
    }
  }
}

template <typename T>
HIGHGRAD_INLINE void solve_stretches(const SecondOrder<T>& p, int64_t begin, int64_t end) {
  T sum[kStretch];
  while (begin < end) {
    const int64_t length = std::min({kStretch, end - begin, p.period - begin % p.period});
    solve_stretch(p, begin, length, sum);
    begin += length;
  }
}

HIGHGRAD_VECTOR_WIDTHS
void solve_range(const SecondOrder<float>& problem, int64_t begin, int64_t end) {
  solve_stretches(problem, begin, end);
}

HIGHGRAD_VECTOR_WIDTHS
void solve_range(const SecondOrder<double>& problem, int64_t begin, int64_t end) {
  solve_stretches(problem, begin, end);
}

// How many elements of [D, *shape] repeat along the leading dimensions of `shape`, or 0 if its memory is laid out
// otherwise.
int64_t find_period(const at::Tensor& rows) {
  int64_t period = 1;
  int64_t dim = rows.dim() - 1;
  for (; dim > 0 && rows.stride(dim) == period; --dim) {
    period *= rows.size(dim);
  }
  for (; dim > 0; --dim) {
    if (rows.stride(dim) != 0 && rows.size(dim) != 1) {
      return 0;
    }
  }
  return rows.stride(0) == period ? period : 0;
}

template <typename T>
void solve_all(const Problem<T>& problem) {
  const int64_t blocks = (problem.elements() + Block<T>::kElements - 1) / Block<T>::kElements;
  const int64_t work = Block<T>::kElements * problem.order * (problem.collapsed ? problem.directions : 1);
  at::parallel_for(0, blocks, std::max<int64_t>(1, kGrainSize / work), [&](int64_t begin, int64_t end) {
    Scratch<T> scratch(problem.order);
    solve_range(problem, begin, end, scratch);
  });
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
  T* y = rows.mutable_data_ptr<T>();
  const int64_t numel = y0.numel();
  if (numel == 0) {
    return rows;
  }
  if (frame.collapsed && frame.order == 2 && x[1].defined()) {
    const int64_t period = find_period(x[1]);
    const SecondOrder<T> problem{
        frame.directions,
        numel,
        period > 0 ? period : numel,
        slope,
        pointer(frame.weights),
        pointer(y0),
        pointer(w0),
        period > 0 ? x[1].const_data_ptr<T>() : pointer(x[1]),
        pointer(x[2]),
        y};
    at::parallel_for(0, numel, std::max<int64_t>(1, kGrainSize / frame.directions), [&](int64_t begin, int64_t end) {
      solve_range(problem, begin, end);
    });
    return rows;
  }
  Problem<T> problem{
      frame.order,
      frame.directions,
      numel,
      frame.collapsed,
      slope,
      pointer(frame.weights),
      pointer(y0),
      pointer(w0),
      {},
      y};
  for (const auto k : c10::irange<int64_t>(1, x.terms() + 1)) {
    problem.x.push_back(pointer(x[k]));
  }
  solve_all(problem);
  return rows;
}

} // namespace

bool is_solved_by_element(const Frame& frame, const Series& x, const at::Tensor& y0, const at::Tensor& w0) {
  const auto is_plain = [&](const at::Tensor& tensor) {
    return tensor.device().is_cpu() && tensor.scalar_type() == frame.dtype && !at::isTensorSubclassLike(tensor);
  };
  bool serves = !at::GradMode::is_enabled() && (frame.dtype == at::kFloat || frame.dtype == at::kDouble) &&
      is_plain(y0) && is_plain(w0) && w0.sizes() == y0.sizes();
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
  if (!is_solved_by_element(frame, x, y0, w0)) {
    return {};
  }
  return frame.dtype == at::kFloat ? solve<float>(frame, x, y0, w0, slope) : solve<double>(frame, x, y0, w0, slope);
}

} // namespace highgrad::taylor
