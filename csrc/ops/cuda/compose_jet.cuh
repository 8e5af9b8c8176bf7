#pragma once

#include "ops/cuda/launch.h"
#include "ops/local_element.h"

namespace highgrad::ops::cuda {

// Note [Composed jets]
// A thread has one element: it keeps phi's series at that in registers, and takes the directions one after the other.
// Neighbouring threads have neighbouring elements, so that every row is read and written in whole sectors, once. All
// loops but that over directions go up to kOrder, and are unrolled: what is past the order of the call, or of a
// direction, is computed or not, and left out.
//
// Rows lie order after order, those of a direction at its number within each; see Jet in taylor/jet.h.

// c[1], ..., c[kN], of which `orders` are given where they are.
template <int kN, typename real_t>
__device__ __forceinline__ void expand_at(
    const CompositionLayout& layout,
    const LocalEquation<real_t>& equation,
    int64_t element,
    int64_t orders,
    real_t* c) {
  const auto seed = [&](int i) { return static_cast<const real_t*>(layout.seeds[i])[element]; };
  const auto given = [&](int64_t m) {
    return m <= orders ? static_cast<const real_t*>(layout.seeds[0])[(m - 1) * layout.numel + element] : real_t{};
  };
  real_t a[kN + 1], b[kN + 1], d[kN + 1];
  expand_element(equation, seed, given, kN, c, a, b, d);
}

// Horner's rule: the series with coefficients `coefficient(m)` of the series h of `terms` orders and no value.
template <int kOrder, typename real_t, typename Coefficient>
__device__ __forceinline__ void compose_line(
    int64_t terms,
    const real_t* h,
    const Coefficient& coefficient,
    real_t* y) {
  y[0] = coefficient(kOrder);
#pragma unroll
  for (int m = kOrder - 1; m >= 0; --m) {
    // Highest first: y_k is made of lower orders of what stands there.
#pragma unroll
    for (int k = kOrder - m; k > 0; --k) {
      real_t sum{};
#pragma unroll
      for (int j = 1; j <= k; ++j) {
        if (j <= terms) {
          sum += h[j] * y[k - j];
        }
      }
      y[k] = sum;
    }
    y[0] = coefficient(m);
  }
}

// The orders that directions have for themselves.
struct OwnOrders {
  int64_t of_x;
  int64_t of_result;
};

__device__ inline OwnOrders own_orders(const CompositionLayout& layout) {
  return {
      layout.terms == layout.order ? layout.terms - layout.collapsed : layout.terms, layout.order - layout.collapsed};
}

// Up to which order direction d goes.
__device__ inline int64_t order_of(const CompositionLayout& layout, int64_t d) {
  int64_t order = 0;
#pragma unroll
  for (int k = 1; k <= kMostComposedOrder; ++k) {
    order += d < layout.counts[k - 1] ? 1 : 0;
  }
  return order;
}

// h[1], ..., h[kOrder] of direction d, of which `terms` are there.
template <int kOrder, typename real_t>
__device__ __forceinline__ void load_argument(
    const CompositionLayout& layout,
    const real_t* x,
    int64_t d,
    int64_t place,
    int64_t terms,
    real_t* h) {
#pragma unroll
  for (int j = 1; j <= kOrder; ++j) {
    h[j] = j <= terms ? x[(layout.first_rows[j - 1] + d) * layout.period + place] : real_t{};
  }
}

template <typename real_t>
__device__ inline real_t weight_of(const CompositionLayout& layout, int64_t d) {
  return layout.weights == nullptr ? real_t(1) : static_cast<const real_t*>(layout.weights)[d];
}

template <int kOrder, typename real_t>
__global__ void compose_jet_kernel(
    real_t* __restrict__ rows,
    const real_t* __restrict__ x,
    CompositionLayout layout,
    LocalEquation<real_t> equation) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const OwnOrders own = own_orders(layout);
#pragma unroll 1
  for (int64_t element = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; element < layout.numel;
       element += stride) {
    real_t c[kOrder + 1];
    expand_at<kOrder>(layout, equation, element, layout.order, c);
    const auto series = [&](int m) { return m == 0 ? real_t{} : c[m]; };
    const int64_t place = layout.period < layout.numel ? element % layout.period : element;
    real_t sum{};
#pragma unroll 1
    for (int64_t d = 0; d < layout.counts[0]; ++d) {
      const int64_t order = order_of(layout, d);
      const int64_t terms = own.of_x < order ? own.of_x : order;
      real_t h[kOrder + 1], y[kOrder + 1];
      load_argument<kOrder>(layout, x, d, place, terms, h);
      compose_line<kOrder>(terms, h, series, y);
#pragma unroll
      for (int k = 1; k <= kOrder; ++k) {
        if (k <= order) {
          if (k <= own.of_result) {
            rows[(layout.first_rows[k - 1] + d) * layout.numel + element] = y[k];
          } else {
            sum += y[k] * weight_of<real_t>(layout, d);
          }
        }
      }
    }
    if (layout.collapsed) {
      if (layout.terms == layout.order) {
        sum += c[1] * x[layout.highest_row * layout.period + place];
      }
      rows[layout.highest_row * layout.numel + element] = sum;
    }
  }
}

// Its reverse: with w the composition of phi', the cotangent of x_j is the sum over k of that of y_k times w_(k-j).
template <int kOrder, typename real_t>
__global__ void reverse_jet_kernel(
    real_t* __restrict__ by_x,
    real_t* __restrict__ by_x0,
    const real_t* __restrict__ by_rows,
    const real_t* __restrict__ x,
    CompositionLayout layout,
    LocalEquation<real_t> equation) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const OwnOrders own = own_orders(layout);
#pragma unroll 1
  for (int64_t element = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; element < layout.numel;
       element += stride) {
    real_t c[kOrder + 2];
    expand_at<kOrder + 1>(layout, equation, element, layout.order + 1, c);
    const auto slope = [&](int m) { return c[m + 1] * real_t(m + 1); };
    const int64_t place = layout.period < layout.numel ? element % layout.period : element;
    const real_t by_sum = layout.collapsed ? by_rows[layout.highest_row * layout.numel + element] : real_t{};
    real_t by_value{};
#pragma unroll 1
    for (int64_t d = 0; d < layout.counts[0]; ++d) {
      const int64_t order = order_of(layout, d);
      const int64_t terms = own.of_x < order ? own.of_x : order;
      real_t h[kOrder + 1], w[kOrder + 1], by_y[kOrder + 1];
      load_argument<kOrder>(layout, x, d, place, terms, h);
      compose_line<kOrder>(terms, h, slope, w);
#pragma unroll
      for (int k = 1; k <= kOrder; ++k) {
        by_y[k] = real_t{};
        if (k <= order) {
          by_y[k] = k <= own.of_result ? by_rows[(layout.first_rows[k - 1] + d) * layout.numel + element]
                                       : by_sum * weight_of<real_t>(layout, d);
          by_value += by_y[k] * w[k];
        }
      }
#pragma unroll
      for (int j = 1; j <= kOrder; ++j) {
        if (j <= terms) {
          real_t by_h{};
#pragma unroll
          for (int k = j; k <= kOrder; ++k) {
            if (k <= order) {
              by_h += by_y[k] * w[k - j];
            }
          }
          by_x[(layout.first_rows[j - 1] + d) * layout.numel + element] = by_h;
        }
      }
    }
    if (layout.collapsed && layout.terms == layout.order) {
      by_value += by_sum * c[2] * real_t(2) * x[layout.highest_row * layout.period + place];
      by_x[layout.highest_row * layout.numel + element] = by_sum * c[1];
    }
    by_x0[element] = by_value;
  }
}

} // namespace highgrad::ops::cuda
