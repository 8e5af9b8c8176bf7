#pragma once

#include <ATen/core/Tensor.h>

#include "taylor/series.h"

namespace highgrad::taylor {

// y = softmax(x) and m = logsumexp(x), by m' = sum(y x') and y' = y (x' - m').
struct Normalized {
  Series softmax;
  Series logsumexp; // with keepdim; its value is not that
};

// Of a series x whose value is not used, but y, along dimensions that are counted from the end.
Normalized normalize(const Frame& frame, const Series& x, const at::Tensor& y, at::IntArrayRef dims);

} // namespace highgrad::taylor
