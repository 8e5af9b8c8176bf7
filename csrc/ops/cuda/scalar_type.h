#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include "ops/cuda/element_type.h"

namespace highgrad::ops::cuda {

// The kernels' name of a torch dtype.
inline ElementType element_type(at::ScalarType type) {
  switch (type) {
    case at::kHalf:
      return ElementType::kHalf;
    case at::kBFloat16:
      return ElementType::kBFloat16;
    case at::kFloat:
      return ElementType::kFloat;
    case at::kDouble:
      return ElementType::kDouble;
    case at::kComplexFloat:
      return ElementType::kComplexFloat;
    case at::kComplexDouble:
      return ElementType::kComplexDouble;
    default:
      TORCH_CHECK(false, "highgrad_ext: expected a floating point or complex dtype, got ", type);
  }
}

} // namespace highgrad::ops::cuda
