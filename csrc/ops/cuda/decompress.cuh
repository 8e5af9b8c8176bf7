#pragma once

#include <cstring>

#include "ops/cuda/element.cuh"
#include "ops/cuda/launch.h"

namespace highgrad::ops::cuda {

// Note [Entries outside of their tensor]
// Nothing waits for the device, so an entry outside of its tensor is not reported. What would be read there is NaN, so
// that no result holds what nobody wrote; what would be written there is left out.

// Where entry k lies in the compressed tensor, and where in the whole one.
__device__ inline int64_t source_of(const Entries& entries, int64_t k) {
  return entries.source[k];
}

__device__ inline int64_t target_of(const Entries& entries, int64_t k) {
  return entries.target == nullptr ? k : entries.target[k];
}

__device__ inline bool is_inside(int64_t place, int64_t numel) {
  return place >= 0 && place < numel;
}

// All bits are one: NaN in every dtype, and in both parts of a complex number.
template <typename element_t>
__device__ element_t all_ones() {
  element_t ones;
  std::memset(static_cast<void*>(&ones), 0xff, sizeof(element_t));
  return ones;
}

// One thread an entry, then a grid further on. No target occurs twice, so every element is written by one thread.
template <typename element_t>
__global__ void decompress_kernel(element_t* dst, const element_t* src, Entries entries) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
#pragma unroll 1
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < entries.count; k += stride) {
    const int64_t source = source_of(entries, k);
    const int64_t target = target_of(entries, k);
    if (is_inside(target, entries.target_numel)) {
      dst[target] = is_inside(source, entries.source_numel) ? src[source] : all_ones<element_t>();
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
    const int64_t source = source_of(entries, k);
    const int64_t target = target_of(entries, k);
    if (is_inside(source, entries.source_numel)) {
      atomic_add(dst + source, is_inside(target, entries.target_numel) ? src[target] : all_ones<element_t>());
    }
  }
}

} // namespace highgrad::ops::cuda
