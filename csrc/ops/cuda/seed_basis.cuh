#pragma once

#include "ops/cuda/element.cuh"
#include "ops/index_math.h"

namespace highgrad::ops::cuda {

// basis: [rows, columns], row-major, numel elements. One thread an element, then a grid further on; every element is
// written by one thread, once.
template <typename element_t>
__global__ void seed_basis_kernel(element_t* basis, int64_t numel, int64_t columns, int64_t first_row) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < numel; i += stride) {
    basis[i] = Element<element_t>::make(is_basis_one(i, columns, first_row) ? 1.0f : 0.0f);
  }
}

} // namespace highgrad::ops::cuda
