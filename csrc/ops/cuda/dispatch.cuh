#pragma once

#include <cstdint>

#include "ops/cuda/element.cuh"
#include "ops/cuda/element_type.h"

namespace highgrad::ops::cuda {

template <typename element_t>
struct TypeTag {
  using type = element_t;
};

// Calls body(TypeTag<T>) with the T that `type` names among the real types.
template <typename Body>
void dispatch_real(ElementType type, Body&& body) {
  switch (type) {
    case ElementType::kHalf:
      return body(TypeTag<__half>());
    case ElementType::kBFloat16:
      return body(TypeTag<__nv_bfloat16>());
    case ElementType::kFloat:
      return body(TypeTag<float>());
    default:
      return body(TypeTag<double>());
  }
}

// Likewise among the complex types.
template <typename Body>
void dispatch_complex(ElementType type, Body&& body) {
  if (type == ElementType::kComplexFloat) {
    body(TypeTag<Complex<float>>());
  } else {
    body(TypeTag<Complex<double>>());
  }
}

// Likewise with a type of so many bytes: what is only moved needs no other.
template <typename Body>
void dispatch_size(int64_t element_size, Body&& body) {
  switch (element_size) {
    case 2:
      return body(TypeTag<short>());
    case 4:
      return body(TypeTag<int>());
    case 8:
      return body(TypeTag<int64_t>());
    default:
      return body(TypeTag<int4>());
  }
}

inline bool is_complex(ElementType type) {
  return type == ElementType::kComplexFloat || type == ElementType::kComplexDouble;
}

} // namespace highgrad::ops::cuda
