#pragma once

#include "ops/cuda/element.cuh"
#include "ops/index_math.h"
#include "ops/launch_plan.h"

namespace highgrad::ops::cuda {

// As many elements as one store writes.
template <typename element_t>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(element_t);
  element_t values[kSize];
};

// basis: [rows, columns], row-major, numel elements, aligned to 16 bytes. One thread a pack, then a grid further on;
// every element is written by one thread, once.
template <typename element_t>
__global__ void seed_basis_kernel(element_t* basis, int64_t numel, int64_t columns, int64_t first_row) {
  constexpr int64_t kPack = Pack<element_t>::kSize;
  const int64_t stride = gridDim.x * (kBlockThreads * kPack);
#pragma unroll 1
  for (int64_t begin = (blockIdx.x * int64_t{kBlockThreads} + threadIdx.x) * kPack; begin < numel; begin += stride) {
    BasisCursor cursor = basis_cursor(begin, columns);
    Pack<element_t> pack;
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      pack.values[k] = Element<element_t>::make(next_is_one(cursor, columns, first_row) ? 1.0f : 0.0f);
    }
    if (begin + kPack <= numel) {
      *reinterpret_cast<Pack<element_t>*>(basis + begin) = pack;
    } else {
#pragma unroll
      for (int k = 0; k < kPack - 1; ++k) {
        if (begin + k < numel) {
          basis[begin + k] = pack.values[k];
        }
      }
    }
  }
}

} // namespace highgrad::ops::cuda
