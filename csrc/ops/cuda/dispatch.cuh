#pragma once

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

inline bool is_complex(ElementType type) {
  return type == ElementType::kComplexFloat || type == ElementType::kComplexDouble;
}

} // namespace highgrad::ops::cuda
