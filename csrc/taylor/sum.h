#pragma once

#include <ATen/core/Tensor.h>

namespace highgrad::taylor {

// Of two terms, of which an undefined one is zero.
inline at::Tensor plus(const at::Tensor& a, const at::Tensor& b) {
  return !a.defined() ? b : b.defined() ? a + b : a;
}

} // namespace highgrad::taylor
