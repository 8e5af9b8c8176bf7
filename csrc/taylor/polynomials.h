#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace highgrad::taylor {

// Homogeneous polynomials in `variables` variables whose coefficients are tensors: [count_monomials, *shape], one row
// for each sorted multi-index, as ops/symmetric_index.h ranks them.

// C(variables + degree - 1, degree).
int64_t count_monomials(int64_t variables, int64_t degree);

// The rank of the product of every two monomials of degrees j and l, count(j) * count(l) of them. Kept for later calls,
// and no tensor, which a mode of the first call (inference, fake tensors) would make one of its own.
using Ranks = std::shared_ptr<const std::vector<int32_t>>;
Ranks product_ranks(int64_t variables, int64_t j, int64_t l);

// i! of every multi-index i of this degree: what takes coefficients to derivatives. Float64 [count], on the CPU.
at::Tensor multi_factorials(int64_t variables, int64_t degree);

// The product of polynomials of degrees j and l, element by element with broadcasting.
at::Tensor multiply_polynomials(int64_t variables, int64_t j, const at::Tensor& a, int64_t l, const at::Tensor& b);

// Its reverse: from the cotangent of that product, [count(j + l), *shape], and b to the cotangent of a.
at::Tensor correlate_polynomials(
    int64_t variables,
    int64_t j,
    int64_t l,
    const at::Tensor& cotangent,
    const at::Tensor& b);

// The sums of the rows of pairs [count(j) * count(l), *shape] that belong to one monomial each: [count(j + l), *shape].
at::Tensor fold_pairs(int64_t variables, int64_t j, int64_t l, const at::Tensor& pairs);

} // namespace highgrad::taylor
