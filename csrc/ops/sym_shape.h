#pragma once

// Shapes that a trace may know by name alone, as the checks that all devices share compare them. Where a size is only
// known when the traced program runs, the comparison becomes one of its assertions.

#include <c10/core/SymBool.h>
#include <c10/core/SymInt.h>
#include <c10/core/SymIntArrayRef.h>

#include <cstddef>

namespace highgrad::ops {

inline bool is_same_size(const c10::SymInt& a, const c10::SymInt& b) {
  return a.sym_eq(b).expect_true(__FILE__, __LINE__);
}

inline bool is_at_least_zero(const c10::SymInt& size) {
  return size.sym_ge(0).expect_true(__FILE__, __LINE__);
}

inline bool is_same_shape(c10::SymIntArrayRef a, c10::SymIntArrayRef b) {
  if (a.size() != b.size()) {
    return false;
  }
  for (size_t dim = 0; dim < a.size(); ++dim) {
    if (!is_same_size(a[dim], b[dim])) {
      return false;
    }
  }
  return true;
}

inline c10::SymInt elements_of(c10::SymIntArrayRef shape) {
  c10::SymInt elements = 1;
  for (const c10::SymInt& size : shape) {
    elements = elements * size;
  }
  return elements;
}

} // namespace highgrad::ops
