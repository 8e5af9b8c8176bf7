#pragma once

#include "ops/cuda/element.cuh"
#include "ops/cuda/launch.h"

namespace highgrad::ops::cuda {

// Whether entry k lies in both tensors. Nothing waits for the device, so one that does not is left out, not reported.
__device__ inline bool find_entry(const Entries& entries, int64_t k, int64_t& source, int64_t& target) {
  source = entries.source[k];
  target = entries.target == nullptr ? k : entries.target[k];
  return source >= 0 && source < entries.source_numel && target >= 0 && target < entries.target_numel;
}

// One thread an entry, then a grid further on. No target occurs twice, so every element is written by one thread.
template <typename element_t>
__global__ void decompress_kernel(element_t* dst, const element_t* src, Entries entries) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
#pragma unroll 1
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < entries.count; k += stride) {
    int64_t source = 0;
    int64_t target = 0;
    if (find_entry(entries, k, source, target)) {
      dst[target] = src[source];
    }
  }
}

// Addition of two-byte elements by compare and swap, which every architecture has. The first guess is the zero that a
// result starts with: a plain read would race with the other threads' swaps.
template <typename real_t>
__device__ void atomic_add_short(real_t* address, real_t value) {
  auto* bits = reinterpret_cast<unsigned short*>(address);
  unsigned short seen = 0;
  unsigned short expected = 0;
  do {
    expected = seen;
    const float sum =
        Convert<float, real_t>::apply(reinterpret_cast<const real_t&>(expected)) + Convert<float, real_t>::apply(value);
    const real_t rounded = Convert<real_t, float>::apply(sum);
    seen = atomicCAS(bits, expected, reinterpret_cast<const unsigned short&>(rounded));
  } while (seen != expected);
}

template <typename element_t>
__device__ void atomic_add(element_t* address, element_t value) {
  if constexpr (sizeof(element_t) == 2) {
    atomic_add_short(address, value);
  } else {
    atomicAdd(address, value);
  }
}

template <typename real_t>
__device__ void atomic_add(Complex<real_t>* address, Complex<real_t> value) {
  atomicAdd(&address->real, value.real);
  atomicAdd(&address->imag, value.imag);
}

// One thread an entry, then a grid further on. Sources may occur twice, so additions are atomic.
template <typename element_t>
__global__ void compress_kernel(element_t* dst, const element_t* src, Entries entries) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
#pragma unroll 1
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < entries.count; k += stride) {
    int64_t source = 0;
    int64_t target = 0;
    if (find_entry(entries, k, source, target)) {
      atomic_add(dst + source, src[target]);
    }
  }
}

} // namespace highgrad::ops::cuda
