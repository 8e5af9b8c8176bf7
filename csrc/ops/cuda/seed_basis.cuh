#pragma once

#include "ops/basis_plan.h"
#include "ops/cuda/element.cuh"
#include "ops/launch_plan.h"

namespace highgrad::ops::cuda {

// As many elements as one store writes.
template <typename element_t>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(element_t);
  element_t values[kSize];
};

// basis: plan.numel elements in a row, aligned to 16 bytes. One thread a pack; every element is written by one thread,
// once.
template <typename element_t>
__global__ void seed_basis_kernel(element_t* basis, BasisPlan plan) {
  constexpr int kPack = Pack<element_t>::kSize;
  const uint32_t begin = (blockIdx.x * kBlockThreads + threadIdx.x) * kPack;
  if (begin >= plan.numel) {
    return;
  }
  uint32_t next = next_one(plan, begin);
  Pack<element_t> pack;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    pack.values[k] = Element<element_t>::make(0.0f);
  }
  if (next < kPack) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      if (k == static_cast<int>(next) && begin + k < plan.end) {
        pack.values[k] = Element<element_t>::make(1.0f);
        next += plan.apart.divisor;
      }
    }
  }
  if (begin + kPack <= plan.numel) {
    *reinterpret_cast<Pack<element_t>*>(basis + begin) = pack;
  } else {
#pragma unroll
    for (int k = 0; k < kPack - 1; ++k) {
      if (begin + k < plan.numel) {
        basis[begin + k] = pack.values[k];
      }
    }
  }
}

} // namespace highgrad::ops::cuda
