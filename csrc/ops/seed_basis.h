#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

namespace highgrad::ops {

// Rows [first_row, first_row + rows) of the standard basis of `like`: shape [rows, *like.shape], like's dtype and
// device, zero but for element (i, i + first_row) in row-major order. Its derivative by `like` is zero.
at::Tensor seed_basis(const at::Tensor& like, c10::SymInt rows, c10::SymInt first_row);

// What the kernels of all devices, and of none (Meta), check first.
void check_seed_basis(const at::Tensor& like, const c10::SymInt& rows, const c10::SymInt& first_row);

} // namespace highgrad::ops
