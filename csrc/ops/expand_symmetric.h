#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace highgrad::ops {

// Rows of symmetric tensors, from their different entries to all: packed [R, C(size + order - 1, order)], as
// symmetric_index.h packs them, to [R, size^order].
at::Tensor expand_symmetric(const at::Tensor& packed, int64_t size, int64_t order);

// The adjoint: entry p is the sum of all entries of `full` [R, size^order] that expand_symmetric copies p to.
at::Tensor fold_symmetric(const at::Tensor& full, int64_t size, int64_t order);

// Elements a row, and the size and order that index arithmetic takes: a tensor of order 0 is a vector of one. The
// checks are what the kernels of all devices do first.
struct SymmetricShape {
  int64_t packed;
  int64_t full;
  int64_t size;
  int order;
};
SymmetricShape symmetric_shape(int64_t size, int64_t order);
SymmetricShape check_expand_symmetric(const at::Tensor& packed, int64_t size, int64_t order);
SymmetricShape check_fold_symmetric(const at::Tensor& full, int64_t size, int64_t order);

} // namespace highgrad::ops
