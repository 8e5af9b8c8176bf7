// Solutions of y' = w x' in polynomials of many variables, every element by itself.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <vector>

#include "taylor/lanes.h"
#include "taylor/monomials.h"
#include "taylor/recurrence.h"

namespace highgrad::taylor {
namespace {

// Work of one task at least, in products.
constexpr int64_t kGrainSize = 1 << 14;

template <typename T>
struct Problem {
  int64_t order;
  int64_t numel;
  Slope slope;
  std::vector<int64_t> first; // of the rows of order k, for k = 1, ..., order + 1
  // Of orders j and l, at j * order + l.
  std::vector<std::shared_ptr<const MonomialProducts>> products;
  const T* y0;
  const T* w0;
  std::vector<const T*> x; // of orders 1, 2, ..., or null for zero
  T* y;
  T* w;

  const MonomialProducts& products_of(int64_t j, int64_t l) const {
    return *products[j * order + l];
  }
  bool has(int64_t j) const {
    return j <= static_cast<int64_t>(x.size()) && x[j - 1] != nullptr;
  }
  int64_t total() const {
    return first[order + 1];
  }
};

// Adds factor * a * b for rows a of order j and b of order l.
template <typename T, typename Vector>
HIGHGRAD_INLINE void add_product(
    const Problem<T>& p,
    int64_t j,
    int64_t l,
    const Vector* a,
    const Vector* b,
    T factor,
    Vector* sum) {
  const MonomialProducts& products = p.products_of(j, l);
  const int64_t rows = p.first[j + 1] - p.first[j];
  for (int64_t r = 0; r < rows; ++r) {
    const Vector scaled = a[r] * factor;
    for (int64_t t = products.first[r]; t < products.first[r + 1]; ++t) {
      sum[products.terms[t].product] += scaled * b[products.terms[t].right];
    }
  }
}

template <typename T, typename Vector>
HIGHGRAD_INLINE void add_square(const Problem<T>& p, int64_t j, const Vector* a, T factor, Vector* sum) {
  const MonomialProducts& products = p.products_of(j, j);
  const int64_t rows = p.first[j + 1] - p.first[j];
  for (int64_t r = 0; r < rows; ++r) {
    const Vector scaled = a[r] * factor;
    const Vector twice = scaled + scaled;
    for (int64_t t = products.first[r]; t < products.first[r + 1] && products.terms[t].right <= r; ++t) {
      const int64_t c = products.terms[t].right;
      sum[products.terms[t].product] += (c < r ? twice : scaled) * a[c];
    }
  }
}

// One group of elements. scratch: rows of x, y and w.
template <typename T>
HIGHGRAD_INLINE void solve_group(
    const Problem<T>& p,
    int64_t element,
    int64_t length,
    typename Lanes<T>::Vector* scratch) {
  using Vector = typename Lanes<T>::Vector;
  Vector* x = scratch;
  Vector* y = x + p.total();
  Vector* w = y + p.total();
  const Vector y0 = load(p.y0 + element, length);
  const Vector w0 = load(p.w0 + element, length);
  const Vector slope_by_y = y0 * static_cast<T>(2 * p.slope.square) + static_cast<T>(p.slope.linear);
  for (int64_t k = 1; k <= p.order; ++k) {
    const int64_t first = p.first[k], rows = p.first[k + 1] - first;
    for (int64_t r = 0; r < rows; ++r) {
      x[first + r] = p.has(k) ? load(p.x[k - 1] + r * p.numel + element, length) : Vector{};
      y[first + r] = w0 * x[first + r];
    }
    for (int64_t j = 1; j < k; ++j) {
      if (p.has(j)) {
        const T factor = static_cast<T>(j) / static_cast<T>(k);
        add_product(p, j, k - j, x + p.first[j], w + p.first[k - j], factor, y + first);
      }
    }
    if (p.slope.companion != 0) {
      for (int64_t r = 0; r < rows; ++r) {
        w[first + r] = x[first + r] * y0 * static_cast<T>(p.slope.companion);
      }
      for (int64_t j = 1; j < k; ++j) {
        if (p.has(j)) {
          const T factor = static_cast<T>(p.slope.companion * static_cast<double>(j) / static_cast<double>(k));
          add_product(p, j, k - j, x + p.first[j], y + p.first[k - j], factor, w + first);
        }
      }
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        w[first + r] = slope_by_y * y[first + r];
      }
      for (int64_t j = 1; 2 * j < k && p.slope.square != 0; ++j) {
        const T factor = static_cast<T>(2 * p.slope.square);
        add_product(p, j, k - j, y + p.first[j], y + p.first[k - j], factor, w + first);
      }
      if (k % 2 == 0 && p.slope.square != 0) {
        add_square(p, k / 2, y + p.first[k / 2], static_cast<T>(p.slope.square), w + first);
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      store<T>(y[first + r], p.y + (first + r) * p.numel + element, length);
      store<T>(w[first + r], p.w + (first + r) * p.numel + element, length);
    }
  }
}

template <typename T>
HIGHGRAD_INLINE void solve_groups(const Problem<T>& p, int64_t begin, int64_t end, typename Lanes<T>::Vector* scratch) {
  constexpr int64_t kCount = Lanes<T>::kCount;
  for (int64_t first = begin * kCount; first < std::min(end * kCount, p.numel); first += kCount) {
    solve_group(p, first, std::min(kCount, p.numel - first), scratch);
  }
}

HIGHGRAD_VECTOR_WIDTHS
void solve_range(const Problem<float>& problem, int64_t begin, int64_t end, Lanes<float>::Vector* scratch) {
  solve_groups(problem, begin, end, scratch);
}

HIGHGRAD_VECTOR_WIDTHS
void solve_range(const Problem<double>& problem, int64_t begin, int64_t end, Lanes<double>::Vector* scratch) {
  solve_groups(problem, begin, end, scratch);
}

template <typename T>
Solution solve(const Frame& frame, const Series& x, const at::Tensor& y0, const at::Tensor& w0, const Slope& slope) {
  std::vector<at::Tensor> held{y0.contiguous(), (w0.defined() ? w0 : slope_of_value(slope, y0)).contiguous()};
  Problem<T> problem{frame.order, y0.numel(), slope, {0}, {}, nullptr, nullptr, {}, nullptr, nullptr};
  problem.y0 = held[0].const_data_ptr<T>();
  problem.w0 = held[1].const_data_ptr<T>();
  for (const auto k : c10::irange(frame.order + 1)) {
    problem.first.push_back(frame.rows(k));
  }
  problem.products.resize(frame.order * frame.order);
  int64_t products = problem.total();
  for (const auto j : c10::irange<int64_t>(1, frame.order)) {
    for (const auto l : c10::irange<int64_t>(1, frame.order - j + 1)) {
      problem.products[j * frame.order + l] = frame.monomials->products(j, l);
      products += static_cast<int64_t>(problem.products[j * frame.order + l]->terms.size());
    }
  }
  for (const auto k : c10::irange<int64_t>(1, std::min(x.terms(), frame.order) + 1)) {
    if (!x[k].defined()) {
      problem.x.push_back(nullptr);
      continue;
    }
    held.push_back(x[k].contiguous());
    problem.x.push_back(held.back().const_data_ptr<T>());
  }
  c10::DimVector shape(y0.sizes());
  shape.insert(shape.begin(), problem.total());
  const at::TensorOptions options = y0.options().memory_format(at::MemoryFormat::Contiguous);
  Solution solution{at::empty(shape, options), at::empty(shape, options)};
  problem.y = solution.y.mutable_data_ptr<T>();
  problem.w = solution.w.mutable_data_ptr<T>();
  const int64_t groups = (problem.numel + Lanes<T>::kCount - 1) / Lanes<T>::kCount;
  at::parallel_for(0, groups, std::max<int64_t>(1, kGrainSize / products), [&](int64_t begin, int64_t end) {
    Scratch<T> scratch(3 * problem.total());
    solve_range(problem, begin, end, scratch.get());
  });
  return solution;
}

} // namespace

Solution solve_polynomials(
    const Frame& frame,
    const Series& x,
    const at::Tensor& y0,
    const at::Tensor& w0,
    const Slope& slope) {
  return frame.dtype == at::kFloat ? solve<float>(frame, x, y0, w0, slope) : solve<double>(frame, x, y0, w0, slope);
}

} // namespace highgrad::taylor
