#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "taylor/monomials.h"

namespace highgrad::taylor {

// Homogeneous polynomials whose coefficients are tensors: [count, *shape], one row for each monomial of their degree.

// The product of polynomials of degrees j and l, element by element with broadcasting.
at::Tensor multiply_polynomials(
    const Monomials& monomials,
    int64_t j,
    const at::Tensor& a,
    int64_t l,
    const at::Tensor& b);

// Its reverse: from the cotangent of that product, [count(j + l), *shape], and b to the cotangent of a.
at::Tensor correlate_polynomials(
    const Monomials& monomials,
    int64_t j,
    int64_t l,
    const at::Tensor& cotangent,
    const at::Tensor& b);

// The sums of the rows of pairs [count(j) * count(l), *shape] that belong to one monomial each: [count(j + l), *shape].
at::Tensor fold_pairs(const Monomials& monomials, int64_t j, int64_t l, const at::Tensor& pairs);

} // namespace highgrad::taylor
