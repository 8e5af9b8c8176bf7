#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>

#include <limits>

namespace highgrad::engine {

// The relative distance between one and the next number of a floating dtype, real or complex; of half precision the
// coarser one.
inline double epsilon_of(at::ScalarType dtype) {
  const at::ScalarType real = c10::toRealValueType(dtype);
  if (real == at::kDouble) {
    return std::numeric_limits<double>::epsilon();
  }
  return real == at::kFloat ? std::numeric_limits<float>::epsilon()
                            : static_cast<float>(std::numeric_limits<c10::BFloat16>::epsilon());
}

} // namespace highgrad::engine
