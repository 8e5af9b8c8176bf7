#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

namespace highgrad::ops {

// Of the ops that move elements by their size, where a kernel would take any other dtype for a larger one.
inline void check_dtype(const char* name, at::ScalarType dtype) {
  TORCH_CHECK(
      dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat || dtype == at::kDouble ||
          dtype == at::kComplexFloat || dtype == at::kComplexDouble,
      name,
      ": expected a floating point or complex dtype (half, bfloat16, float, double, complex64 or complex128), got ",
      dtype);
}

} // namespace highgrad::ops
