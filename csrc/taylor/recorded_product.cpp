#include "taylor/recorded_product.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <array>
#include <utility>

#include "tape/edges.h"
#include "taylor/known_orders.h"
#include "taylor/lanes.h"
#include "taylor/recorded_rows.h"
#include "taylor/sum.h"
#include "torch_compat.h"

namespace highgrad::taylor {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Elements of one task, at least.
constexpr int64_t kTask = 1 << 13;

// One of both factors, a in number 0.
template <typename T>
struct Operand {
  int64_t terms;
  const T* rows;
  const T* value;
  T* by_rows; // backward
  T* by_value;
};

template <typename T>
struct Problem {
  std::vector<DirectionGroup> groups;
  std::vector<int64_t> first_rows; // of order k at k - 1
  int64_t order, numel;
  bool collapsed;
  const T* weights; // [directions], or null for ones
  std::array<Operand<T>, 2> operands;
  T* y; // forward
  const T* by_y; // backward
};

// A vector of an operand along one direction: its value, and the orders that directions have for themselves.
template <typename T>
HIGHGRAD_INLINE void load_operand(
    const Problem<T>& p,
    size_t i,
    int64_t order,
    int64_t own,
    int64_t d,
    int64_t place,
    int64_t count,
    typename Lanes<T>::Vector* x) {
  const Operand<T>& operand = p.operands[i];
  x[0] = load(operand.value + place, count);
#pragma GCC unroll 8
  for (int64_t j = 1; j <= order; ++j) {
    const bool is_there = j <= own && j <= operand.terms;
    x[j] = is_there ? load(operand.rows + (p.first_rows[j - 1] + d) * p.numel + place, count)
                    : typename Lanes<T>::Vector{};
  }
}

template <typename Known, typename T>
HIGHGRAD_INLINE void multiply_stretch(
    const Problem<T>& p,
    const DirectionGroup& group,
    int64_t begin,
    int64_t length,
    T* sums,
    typename Lanes<T>::Vector* scratch) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  constexpr bool kCollapsed = Known::kCollapsed;
  const Orders<Known> orders(group, p.order);
  const int64_t order = orders.order, own = orders.own;
  OrderArrays<Known, T, 2> arrays(scratch, order);
  Vector* const a = arrays[0];
  Vector* const b = arrays[1];
  for (int64_t d = group.first; d < group.last; ++d) {
    const T weight = p.weights == nullptr ? T(1) : p.weights[d];
    for (int64_t e = 0; e < length; e += kLanes) {
      const int64_t count = std::min(kLanes, length - e);
      load_operand(p, 0, order, own, d, begin + e, count, a);
      load_operand(p, 1, order, own, d, begin + e, count, b);
#pragma GCC unroll 8
      for (int64_t k = 1; k <= order; ++k) {
        Vector sum{};
#pragma GCC unroll 8
        for (int64_t j = 0; j <= k; ++j) {
          sum += a[j] * b[k - j];
        }
        if (kCollapsed && k == order) {
          add_direction<T>(d, sum * weight, sums + e);
        } else {
          store<T>(sum, p.y + (p.first_rows[k - 1] + d) * p.numel + begin + e, count);
        }
      }
    }
  }
}

template <typename Known, typename T>
HIGHGRAD_INLINE void reverse_stretch(
    const Problem<T>& p,
    const DirectionGroup& group,
    int64_t begin,
    int64_t length,
    typename Lanes<T>::Vector* scratch) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  constexpr bool kCollapsed = Known::kCollapsed;
  const Orders<Known> orders(group, p.order);
  const int64_t order = orders.order, own = orders.own;
  OrderArrays<Known, T, 3> arrays(scratch, order);
  Vector* const a = arrays[0];
  Vector* const b = arrays[1];
  Vector* const by_y = arrays[2];
  for (int64_t d = group.first; d < group.last; ++d) {
    const T weight = p.weights == nullptr ? T(1) : p.weights[d];
    for (int64_t e = 0; e < length; e += kLanes) {
      const int64_t count = std::min(kLanes, length - e), place = begin + e;
      load_operand(p, 0, order, own, d, place, count, a);
      load_operand(p, 1, order, own, d, place, count, b);
      load_cotangents<kCollapsed>(p, order, d, weight, place, count, by_y);
#pragma GCC unroll 2
      for (int64_t i = 0; i < 2; ++i) {
        const Operand<T>& operand = p.operands[i];
        const Vector* const other = i == 0 ? b : a;
#pragma GCC unroll 8
        for (int64_t j = 0; j <= own; ++j) {
          T* const by_x = j == 0 ? operand.by_value + place
                                 : operand.by_rows + (p.first_rows[j == 0 ? 0 : j - 1] + d) * p.numel + place;
          if (j > operand.terms) {
            continue;
          }
          Vector sum = j == 0 && d > 0 ? load(by_x, count) : Vector{};
#pragma GCC unroll 8
          for (int64_t k = j == 0 ? 1 : j; k <= order; ++k) {
            sum += by_y[k] * other[k - j];
          }
          store<T>(sum, by_x, count);
        }
      }
    }
  }
}

// The terms of the collapsed order of both factors, which have no directions.
template <typename T>
HIGHGRAD_INLINE void finish_collapsed(const Problem<T>& p, int64_t begin, int64_t length, const T* sums) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  const int64_t highest = p.first_rows.back() * p.numel + begin;
  for (int64_t e = 0; e < length; e += kLanes) {
    const int64_t count = std::min(kLanes, length - e);
    Vector y = p.y != nullptr ? load(sums + e, kLanes) : Vector{};
    for (size_t i = 0; i < 2; ++i) {
      const Operand<T>& operand = p.operands[i];
      const Operand<T>& other = p.operands[1 - i];
      if (operand.terms < p.order) {
        continue;
      }
      const Vector x = load(operand.rows + highest + e, count), factor = load(other.value + begin + e, count);
      if (p.y != nullptr) {
        y += x * factor;
      } else {
        const Vector by_y = load(p.by_y + highest + e, count);
        store<T>(by_y * factor, operand.by_rows + highest + e, count);
        accumulate<T>(by_y * x, other.by_value + begin + e, count);
      }
    }
    if (p.y != nullptr) {
      store<T>(y, p.y + highest + e, count);
    }
  }
}

template <typename T>
HIGHGRAD_INLINE void run_any(const Problem<T>& p, int64_t begin, int64_t end) {
  std::vector<T> sums(kStretch);
  Scratch<T> scratch(3 * (p.order + 1));
  for (int64_t first = begin; first < end; first += kStretch) {
    const int64_t length = std::min(kStretch, end - first);
    run_groups(p.groups, p.order, p.collapsed, [&](const DirectionGroup& group, auto known) HIGHGRAD_INLINE_LAMBDA {
      if (p.y != nullptr) {
        multiply_stretch<decltype(known)>(p, group, first, length, sums.data(), scratch.get());
      } else {
        reverse_stretch<decltype(known)>(p, group, first, length, scratch.get());
      }
    });
    if (p.collapsed) {
      finish_collapsed(p, first, length, sums.data());
    }
  }
}

HIGHGRAD_VECTOR_WIDTHS
void run_range(const Problem<float>& p, int64_t begin, int64_t end) {
  run_any(p, begin, end);
}

HIGHGRAD_VECTOR_WIDTHS
void run_range(const Problem<double>& p, int64_t begin, int64_t end) {
  run_any(p, begin, end);
}

using Factors = std::array<Factor, 2>;

// Cotangents of both factors: their values are those of rows, and of no terms.
template <typename T>
void run(const Frame& frame, const Factors& factors, at::Tensor* y, const at::Tensor& by_y, Factors& cotangents) {
  Problem<T> p{
      frame.groups(),
      frame.first_rows(),
      frame.order,
      factors[0].value.numel(),
      frame.collapsed,
      nullptr,
      {},
      nullptr,
      nullptr};
  at::Tensor weights, by_rows;
  if (frame.weights.defined()) {
    weights = frame.weights.contiguous();
    p.weights = weights.const_data_ptr<T>();
  }
  for (const auto i : c10::irange<size_t>(2)) {
    const auto& [jet, value] = factors[i];
    p.operands[i] = {jet.terms, jet.rows.const_data_ptr<T>(), value.const_data_ptr<T>(), nullptr, nullptr};
    if (y == nullptr) {
      p.operands[i].by_rows = cotangents[i].jet.rows.mutable_data_ptr<T>();
      p.operands[i].by_value = cotangents[i].value.mutable_data_ptr<T>();
    }
  }
  if (y != nullptr) {
    p.y = y->mutable_data_ptr<T>();
  } else {
    by_rows = by_y.contiguous();
    p.by_y = by_rows.const_data_ptr<T>();
  }
  const int64_t tasks = (p.numel + kTask - 1) / kTask;
  at::parallel_for(
      0, tasks, 1, [&](int64_t begin, int64_t end) { run_range(p, begin * kTask, std::min(end * kTask, p.numel)); });
}

bool serves(const Frame& frame, const Factor& factor, at::IntArrayRef shape) {
  const auto is_plain = [&](const at::Tensor& tensor) {
    return tensor.is_cpu() && tensor.scalar_type() == frame.dtype && tensor.is_contiguous() && !tensor.is_neg() &&
        !at::isTensorSubclassLike(tensor) && !has_tangent(tensor);
  };
  const auto& [jet, value] = factor;
  return jet.terms > 0 && jet.terms <= frame.order && jet.products.empty() && value.defined() &&
      value.sizes() == shape && is_plain(value) && jet.rows.size(0) == frame.rows(jet.terms) &&
      jet.rows.sizes().slice(1) == shape && is_plain(jet.rows);
}

// The backward in torch's operations: the cotangent of factor i's order j, the value for 0, undefined if it is zero.
at::Tensor correlate(const Frame& frame, const std::vector<at::Tensor>& by_y, const Factor& other, int64_t j) {
  at::Tensor sum;
  for (const auto k : c10::irange<int64_t>(std::max<int64_t>(j, 1), frame.order + 1)) {
    const bool is_sum = frame.collapsed && k == frame.order;
    const at::Tensor x = k == j ? other.value : coefficient(frame, other.jet, k - j);
    if (!x.defined()) {
      continue;
    }
    // Only products of lower orders are summed over directions.
    const at::Tensor cotangent = is_sum && 0 < j && j < k ? of_directions(frame, by_y[k - 1]) : by_y[k - 1];
    at::Tensor term = cotangent * (k == j ? x : frame.reaching(k, x));
    term = j == 0 ? term.sum(0) : with_all_rows(frame, j, std::move(term));
    sum = plus(sum, term);
  }
  return sum;
}

} // namespace

std::optional<Jet> multiply_by_element(const Frame& frame, const Factor& a, const Factor& b) {
  if (frame.is_multivariate() || frame.contracted || (frame.dtype != at::kFloat && frame.dtype != at::kDouble) ||
      !a.value.defined() || a.value.numel() == 0 || a.jet.terms + b.jet.terms < frame.order) {
    return std::nullopt;
  }
  if (!serves(frame, a, a.value.sizes()) || !serves(frame, b, a.value.sizes())) {
    return std::nullopt;
  }
  const Factors factors{a, b};
  std::vector<int64_t> sizes = a.value.sizes().vec();
  sizes.insert(sizes.begin(), frame.rows(frame.order));
  at::Tensor rows;
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::NoGradGuard not_recorded;
    rows = at::empty(sizes, a.value.options());
    Factors none;
    frame.dtype == at::kFloat ? run<float>(frame, factors, &rows, {}, none)
                              : run<double>(frame, factors, &rows, {}, none);
  }
  const std::array<at::Tensor, 4> inputs{a.jet.rows, b.jet.rows, a.value, b.value};
  if (torch::autograd::compute_requires_grad(inputs[0], inputs[1], inputs[2], inputs[3])) {
    auto node = make_node<MultiplySeriesBackward>();
    for (const at::Tensor& input : inputs) {
      node->add_next_edge(tape::edge_of(input));
    }
    node->frame = frame;
    for (const Factor& factor : factors) {
      node->terms.push_back(factor.jet.terms);
      node->rows.emplace_back(factor.jet.rows, /*is_output=*/false);
      node->values.emplace_back(factor.value, /*is_output=*/false);
    }
    torch::autograd::set_history(rows, node);
  }
  return Jet{rows, frame.order};
}

void MultiplySeriesBackward::release_variables() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto* saved : {&rows, &values}) {
    for (SavedVariable& variable : *saved) {
      variable.reset_data();
    }
  }
}

variable_list MultiplySeriesBackward::apply(variable_list&& cotangents) {
  const at::Tensor& by_rows = cotangents[0];
  if (!by_rows.defined()) {
    return variable_list(num_outputs());
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  Factors factors, found;
  for (const auto i : c10::irange<size_t>(2)) {
    factors[i] = {{rows[i].unpack(), terms[i]}, values[i].unpack()};
  }
  if (!at::GradMode::is_enabled() && by_rows.scalar_type() == frame.dtype && by_rows.is_cpu() &&
      !at::isTensorSubclassLike(by_rows) && serves(frame, factors[0], by_rows.sizes().slice(1)) &&
      serves(frame, factors[1], by_rows.sizes().slice(1))) {
    const at::AutoDispatchBelowADInplaceOrView below;
    for (const auto i : c10::irange<size_t>(2)) {
      found[i] = {{at::empty_like(factors[i].jet.rows), terms[i]}, at::empty_like(factors[i].value)};
    }
    frame.dtype == at::kFloat ? run<float>(frame, factors, nullptr, by_rows, found)
                              : run<double>(frame, factors, nullptr, by_rows, found);
  } else {
    std::vector<at::Tensor> by_y;
    for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
      by_y.push_back(by_rows.narrow(0, frame.rows(k - 1), frame.rows_of_order(k)));
    }
    for (const auto i : c10::irange<size_t>(2)) {
      std::vector<at::Tensor> parts;
      for (const auto j : c10::irange<int64_t>(1, terms[i] + 1)) {
        parts.push_back(correlate(frame, by_y, factors[1 - i], j));
      }
      found[i] = {{at::cat(parts), terms[i]}, correlate(frame, by_y, factors[1 - i], 0)};
    }
  }
  return {found[0].jet.rows, found[1].jet.rows, found[0].value, found[1].value};
}

} // namespace highgrad::taylor
