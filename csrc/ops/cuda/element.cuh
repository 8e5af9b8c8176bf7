#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

namespace highgrad::ops::cuda {

template <typename real_t>
struct alignas(2 * sizeof(real_t)) Complex {
  real_t real;
  real_t imag;
};

// torch's build turns the implicit conversions of the half types off, so they are spelled out.
template <typename real_t>
__device__ auto widened(real_t value) {
  if constexpr (std::is_same_v<real_t, __half>) {
    return __half2float(value);
  } else if constexpr (std::is_same_v<real_t, __nv_bfloat16>) {
    return __bfloat162float(value);
  } else {
    return value;
  }
}

// A double becomes a half type by way of float, as everywhere in torch.
template <typename real_t, typename value_t>
__device__ real_t narrowed(value_t value) {
  if constexpr (std::is_same_v<real_t, __half>) {
    return __float2half(static_cast<float>(value));
  } else if constexpr (std::is_same_v<real_t, __nv_bfloat16>) {
    return __float2bfloat16(static_cast<float>(value));
  } else {
    return static_cast<real_t>(value);
  }
}

template <typename element_t>
struct Element {
  static __device__ element_t make(float value) {
    return narrowed<element_t>(value);
  }
};

template <typename real_t>
struct Element<Complex<real_t>> {
  static __device__ Complex<real_t> make(float value) {
    return {static_cast<real_t>(value), real_t(0)};
  }
};

// Real to real or complex to complex.
template <typename dst_t, typename src_t>
struct Convert {
  static __device__ dst_t apply(src_t value) {
    if constexpr (std::is_same_v<dst_t, src_t>) {
      return value;
    } else {
      return narrowed<dst_t>(widened(value));
    }
  }
};

template <typename dst_t, typename src_t>
struct Convert<Complex<dst_t>, Complex<src_t>> {
  static __device__ Complex<dst_t> apply(Complex<src_t> value) {
    return {static_cast<dst_t>(value.real), static_cast<dst_t>(value.imag)};
  }
};

} // namespace highgrad::ops::cuda
