#pragma once

#include "ops/cuda/element.cuh"
#include "ops/cuda/launch.h"
#include "ops/symmetric_index.h"

namespace highgrad::ops::cuda {

// full: [rows, size^order]. packed: [rows, packed]. One thread a column of every `lanes`-th row, then a grid further
// on: it finds where its column comes from once. Neighbouring threads have neighbouring elements of `full`, each
// written by one thread, once.
template <typename element_t>
__global__ void expand_symmetric_kernel(
    element_t* __restrict__ full,
    const element_t* __restrict__ packed,
    SymmetricLayout layout) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t items = layout.lanes * layout.full;
  const int width = digit_width(layout.size);
#pragma unroll 1
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < items; item += threads) {
    const int64_t lane = item / layout.full;
    MultiIndex index = split_index(item - lane * layout.full, layout.size, layout.order, width);
    sort_digits(index, layout.order);
    const int64_t rank = rank_of(index, layout.order);
#pragma unroll 1
    for (int64_t row = lane; row < layout.rows; row += layout.lanes) {
      full[item + (row - lane) * layout.full] = packed[row * layout.packed + rank];
    }
  }
}

// Sums are in float where elements are shorter, as on the CPU.
template <typename element_t>
using Sum = std::conditional_t<sizeof(element_t) == 2, float, element_t>;

template <typename real_t>
__device__ real_t plus(real_t a, real_t b) {
  return a + b;
}

template <typename real_t>
__device__ Complex<real_t> plus(Complex<real_t> a, Complex<real_t> b) {
  return {a.real + b.real, a.imag + b.imag};
}

// The adjoint. One thread an entry of every `lanes`-th row, then a grid further on: it adds the permutations of its
// multi-index in the CPU's order. Neighbouring threads have neighbouring elements of `packed`, each written by one
// thread, once.
template <typename element_t>
__global__ void fold_symmetric_kernel(
    element_t* __restrict__ packed,
    const element_t* __restrict__ full,
    SymmetricLayout layout) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t items = layout.lanes * layout.packed;
  const int width = digit_width(layout.size);
#pragma unroll 1
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; item < items; item += threads) {
    const int64_t lane = item / layout.packed;
    const MultiIndex sorted = unrank(item - lane * layout.packed, layout.size, layout.order, width);
#pragma unroll 1
    for (int64_t row = lane; row < layout.rows; row += layout.lanes) {
      Sum<element_t> sum{};
      MultiIndex index = sorted;
#pragma unroll 1
      do {
        const int64_t column = join_index(index, layout.size, layout.order);
        sum = plus(sum, Convert<Sum<element_t>, element_t>::apply(full[row * layout.full + column]));
      } while (next_permutation(index, layout.order));
      packed[item + (row - lane) * layout.packed] = Convert<element_t, Sum<element_t>>::apply(sum);
    }
  }
}

} // namespace highgrad::ops::cuda
