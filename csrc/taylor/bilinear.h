#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <vector>

#include "taylor/jet.h"
#include "taylor/polynomials.h"
#include "taylor/series.h"

namespace highgrad::taylor {

// The rows of order j + l of a product that `product` forms direction by direction.
template <typename Function>
at::Tensor product_of_rows(
    const Frame& frame,
    int64_t j,
    const at::Tensor& a,
    int64_t l,
    const at::Tensor& b,
    const Function& product) {
  if (!frame.is_multivariate()) {
    return product(frame.reaching(j + l, a), frame.reaching(j + l, b));
  }
  // Every row of a with every row of b.
  const auto each = [&](const at::Tensor& rows, int64_t dim) {
    std::vector<int64_t> shape = rows.sizes().vec();
    shape.insert(shape.begin() + dim, dim == 0 ? a.size(0) : b.size(0));
    return rows.unsqueeze(dim).expand(shape).flatten(0, 1);
  };
  const at::Tensor pairs = product(each(a, 1), each(b, 0));
  return fold_pairs(*frame.monomials, j, l, pairs);
}

// The sum of product(a_j, b_(k-j)) over 0 < j < k, of which both factors are of lower order; undefined if it is zero.
template <typename Function>
at::Tensor crossed(const Frame& frame, int64_t k, const Series& a, const Series& b, const Function& product) {
  at::Tensor sum;
  for (const auto j : c10::irange(std::max<int64_t>(1, k - b.terms()), std::min(k - 1, a.terms()) + 1)) {
    if (a[j].defined() && b[k - j].defined()) {
      const at::Tensor term = product_of_rows(frame, j, a[j], k - j, b[k - j], product);
      sum = sum.defined() ? sum + term : term;
    }
  }
  return sum.defined() && frame.collapsed && k == frame.order ? sum_directions(frame, sum) : sum;
}

inline at::Tensor multiply_matrices(const at::Tensor& a, const at::Tensor& b) {
  return at::matmul(a, b);
}

// y = B(a, b), linear in each. with_b maps the rows of a by b's value, with_a those of b by a's value, and `product`
// maps [D, ...] and [D, ...] direction by direction.
template <typename WithB, typename WithA, typename Product>
Jet bilinear(const Frame& frame, const Jet& a, const Jet& b, WithB&& with_b, WithA&& with_a, Product&& product) {
  Jet result;
  if (!a.is_zero()) {
    result = {with_b(a.rows), a.terms};
  }
  if (!b.is_zero()) {
    result = add(frame, result, {with_a(b.rows), b.terms});
  }
  if (a.is_zero() || b.is_zero()) {
    return result;
  }
  const Series left(frame, a, at::Tensor()), right(frame, b, at::Tensor());
  std::vector<at::Tensor> terms;
  for (const auto k : c10::irange<int64_t>(1, std::min(frame.order, a.terms + b.terms) + 1)) {
    terms.push_back(crossed(frame, k, left, right, product));
  }
  return add(frame, result, join(frame, terms));
}

} // namespace highgrad::taylor
