#pragma once

#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <vector>

namespace highgrad::ops {

// The sizes of `outer`, then those of `inner`.
inline std::vector<int64_t> joined_shape(c10::IntArrayRef outer, c10::IntArrayRef inner) {
  std::vector<int64_t> shape = outer.vec();
  shape.insert(shape.end(), inner.begin(), inner.end());
  return shape;
}

} // namespace highgrad::ops
