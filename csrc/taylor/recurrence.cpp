#include "taylor/recurrence.h"

#include <ATen/Parallel.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <vector>

// GCC compiles the loops for several widths of vector and picks one when the library is loaded.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define HIGHGRAD_VECTOR_WIDTHS __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define HIGHGRAD_VECTOR_WIDTHS
#endif

namespace highgrad::taylor {
namespace {

// Elements that are solved together: their coefficients stay in the first level of the cache up to order 30 or so.
constexpr int64_t kBlock = 64;
constexpr int64_t kGrainSize = 1 << 13;

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
};

// sum = the sum over j in [1, last] of (j x_j) w_(k-j).
template <typename T>
inline __attribute__((always_inline)) void convolve_slope(
    const T* dx,
    const T* w,
    int64_t k,
    int64_t last,
    T* __restrict sum) {
  for (int64_t e = 0; e < kBlock; ++e) {
    sum[e] = 0;
  }
  for (int64_t j = 1; j <= last; ++j) {
    const T* a = dx + j * kBlock;
    const T* b = w + (k - j) * kBlock;
    for (int64_t e = 0; e < kBlock; ++e) {
      sum[e] += a[e] * b[e];
    }
  }
}

// Coefficient k of w from those of y up to k.
template <typename T>
inline __attribute__((always_inline)) void advance_slope(
    const Slope& slope,
    const T* dx,
    const T* y,
    int64_t k,
    int64_t terms,
    T* w) {
  T* __restrict place = w + k * kBlock;
  if (slope.companion != 0) {
    convolve_slope(dx, y, k, std::min(k, terms), place);
    const T factor = static_cast<T>(slope.companion / static_cast<double>(k));
    for (int64_t e = 0; e < kBlock; ++e) {
      place[e] *= factor;
    }
    return;
  }
  T squares[kBlock] = {};
  if (slope.square != 0) {
    for (int64_t j = 0; 2 * j < k; ++j) {
      const T* a = y + j * kBlock;
      const T* b = y + (k - j) * kBlock;
      for (int64_t e = 0; e < kBlock; ++e) {
        squares[e] += a[e] * b[e];
      }
    }
    const T middle = k % 2 == 0 ? T(1) : T(0);
    const T* a = y + k / 2 * kBlock;
    for (int64_t e = 0; e < kBlock; ++e) {
      squares[e] = 2 * squares[e] + middle * a[e] * a[e];
    }
  }
  const T linear = static_cast<T>(slope.linear);
  const T square = static_cast<T>(slope.square);
  for (int64_t e = 0; e < kBlock; ++e) {
    place[e] = linear * y[k * kBlock + e] + square * squares[e];
  }
}

// A block of elements along directions d = begin, ..., end - 1, whose coefficients lie d * numel further on. `scratch`
// holds 3 (order + 1) + 1 blocks, and zeros where p.x is null.
template <typename T>
inline __attribute__((always_inline)) void solve_block(
    const Problem<T>& p,
    int64_t first,
    int64_t length,
    int64_t begin,
    int64_t end,
    T* scratch) {
  const int64_t terms = static_cast<int64_t>(p.x.size());
  T* y = scratch;
  T* w = y + (p.order + 1) * kBlock;
  T* dx = w + (p.order + 1) * kBlock;
  T* collapsed = dx + (p.order + 1) * kBlock;
  std::fill_n(collapsed, kBlock, T(0));
  for (int64_t e = 0, from = first % p.numel; e < length; from = 0) {
    const int64_t run = std::min(length - e, p.numel - from);
    std::copy_n(p.y0 + from, run, y + e);
    std::copy_n(p.w0 + from, run, w + e);
    e += run;
  }
  for (int64_t d = begin; d < end; ++d) {
    const int64_t offset = d * p.numel + first;
    for (int64_t j = 1; j <= std::min(terms, p.collapsed ? p.order - 1 : p.order); ++j) {
      if (p.x[j - 1] != nullptr) {
        for (int64_t e = 0; e < length; ++e) {
          dx[j * kBlock + e] = static_cast<T>(j) * p.x[j - 1][offset + e];
        }
      }
    }
    for (int64_t k = 1; k <= p.order; ++k) {
      if (k == p.order && p.collapsed) {
        T total[kBlock];
        convolve_slope(dx, w, k, std::min(k - 1, terms), total);
        const T weight = p.weights == nullptr ? T(1) : p.weights[d];
        for (int64_t e = 0; e < kBlock; ++e) {
          collapsed[e] += weight * total[e];
        }
        break;
      }
      T* place = y + k * kBlock;
      convolve_slope(dx, w, k, std::min(k, terms), place);
      const T factor = static_cast<T>(1.0 / static_cast<double>(k));
      for (int64_t e = 0; e < kBlock; ++e) {
        place[e] *= factor;
      }
      std::copy_n(place, length, p.y + (k - 1) * p.directions * p.numel + offset);
      if (k < p.order) {
        advance_slope(p.slope, dx, y, k, terms, w);
      }
    }
  }
  if (p.collapsed) {
    const T* last = terms == p.order ? p.x.back() : nullptr;
    T* place = p.y + (p.order - 1) * p.directions * p.numel + first;
    const T factor = static_cast<T>(1.0 / static_cast<double>(p.order));
    for (int64_t e = 0; e < length; ++e) {
      place[e] = collapsed[e] * factor + (last == nullptr ? T(0) : w[e] * last[first + e]);
    }
  }
}

// Elements of all directions lie one after another; a collapsed sum runs over the directions of one.
template <typename T>
inline __attribute__((always_inline)) void solve_blocks(const Problem<T>& p, int64_t begin, int64_t end, T* scratch) {
  const int64_t numel = p.collapsed ? p.numel : p.directions * p.numel;
  for (int64_t first = begin * kBlock; first < std::min(end * kBlock, numel); first += kBlock) {
    solve_block(p, first, std::min(kBlock, numel - first), 0, p.collapsed ? p.directions : 1, scratch);
  }
}

HIGHGRAD_VECTOR_WIDTHS
void solve_range(const Problem<float>& problem, int64_t begin, int64_t end, float* scratch) {
  solve_blocks(problem, begin, end, scratch);
}

HIGHGRAD_VECTOR_WIDTHS
void solve_range(const Problem<double>& problem, int64_t begin, int64_t end, double* scratch) {
  solve_blocks(problem, begin, end, scratch);
}

template <typename T>
void solve_all(const Problem<T>& problem) {
  const int64_t rows = problem.order * problem.directions;
  const int64_t blocks = ((problem.collapsed ? 1 : problem.directions) * problem.numel + kBlock - 1) / kBlock;
  const int64_t work = std::max<int64_t>(1, kBlock * (problem.collapsed ? rows : problem.order));
  at::parallel_for(0, blocks, std::max<int64_t>(1, kGrainSize / work), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch((3 * (problem.order + 1) + 1) * kBlock, T(0));
    solve_range(problem, begin, end, scratch.data());
  });
}

template <typename T>
at::Tensor solve(const Frame& frame, const Series& x, const at::Tensor& y0, const at::Tensor& w0, const Slope& slope) {
  // What pointers point into is kept alive here.
  std::vector<at::Tensor> held{y0.contiguous(), w0.contiguous()};
  Problem<T> problem{
      frame.order,
      frame.directions,
      y0.numel(),
      frame.collapsed,
      slope,
      nullptr,
      held[0].const_data_ptr<T>(),
      held[1].const_data_ptr<T>(),
      {},
      nullptr};
  for (const auto k : c10::irange<int64_t>(1, x.terms() + 1)) {
    if (!x[k].defined()) {
      problem.x.push_back(nullptr);
      continue;
    }
    held.push_back(x[k].contiguous());
    problem.x.push_back(held.back().const_data_ptr<T>());
  }
  if (frame.weights.defined()) {
    held.push_back(frame.weights.contiguous());
    problem.weights = held.back().const_data_ptr<T>();
  }
  c10::DimVector shape(y0.sizes());
  shape.insert(shape.begin(), frame.rows(frame.order));
  at::Tensor rows = at::empty(shape, y0.options().memory_format(at::MemoryFormat::Contiguous));
  problem.y = rows.mutable_data_ptr<T>();
  if (problem.numel > 0) {
    solve_all(problem);
  }
  return rows;
}

} // namespace

at::Tensor solve_by_element(
    const Frame& frame,
    const Series& x,
    const at::Tensor& y0,
    const at::Tensor& w0,
    const Slope& slope) {
  const auto is_plain = [&](const at::Tensor& tensor) {
    return tensor.device().is_cpu() && tensor.scalar_type() == frame.dtype && !at::isTensorSubclassLike(tensor);
  };
  bool serves = !at::GradMode::is_enabled() && is_plain(y0) && is_plain(w0) && w0.sizes() == y0.sizes();
  for (const auto k : c10::irange<int64_t>(1, x.terms() + 1)) {
    serves = serves && (!x[k].defined() || (is_plain(x[k]) && x[k].sizes().slice(1) == y0.sizes()));
  }
  if (!serves) {
    return {};
  }
  if (frame.dtype == at::kFloat) {
    return solve<float>(frame, x, y0, w0, slope);
  }
  return frame.dtype == at::kDouble ? solve<double>(frame, x, y0, w0, slope) : at::Tensor();
}

} // namespace highgrad::taylor
