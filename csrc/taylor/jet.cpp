#include "taylor/jet.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <numeric>

#include "taylor/polynomials.h"

namespace highgrad::taylor {

int64_t Frame::rows_of_order(int64_t k) const {
  if (is_multivariate()) {
    return monomials->count(k);
  }
  if (!counts.empty()) {
    return counts[k - 1];
  }
  return collapsed && k == order ? 1 : directions;
}

std::vector<DirectionGroup> Frame::groups() const {
  if (counts.empty()) {
    return {{0, directions, order}};
  }
  std::vector<DirectionGroup> groups;
  int64_t first = 0;
  for (int64_t k = std::min<int64_t>(order, static_cast<int64_t>(counts.size())); k > 0; --k) {
    if (counts[k - 1] > first) {
      groups.push_back({first, counts[k - 1], k});
      first = counts[k - 1];
    }
  }
  return groups;
}

int64_t Frame::rows(int64_t terms) const {
  if (is_multivariate()) {
    return monomials->total(terms);
  }
  if (!counts.empty()) {
    return std::accumulate(counts.begin(), counts.begin() + terms, int64_t{0});
  }
  return terms == 0 ? 0 : (terms - 1) * directions + rows_of_order(terms);
}

std::vector<int64_t> Frame::first_rows() const {
  std::vector<int64_t> first;
  for (const auto k : c10::irange(order)) {
    first.push_back(rows(k));
  }
  return first;
}

at::Tensor align(const at::Tensor& rows, int64_t dim) {
  const int64_t missing = dim - (rows.dim() - 1);
  if (missing <= 0) {
    return rows;
  }
  c10::DimVector shape{rows.size(0)};
  shape.append(missing, 1);
  shape.append(rows.sizes().begin() + 1, rows.sizes().end());
  return rows.view(shape);
}

at::Tensor coefficient(const Frame& frame, const Jet& jet, int64_t k) {
  if (k > jet.terms) {
    return {};
  }
  if (jet.terms == 1) {
    return jet.rows;
  }
  return jet.rows.narrow(0, frame.rows(k - 1), frame.rows_of_order(k));
}

Jet join(const Frame& frame, const std::vector<at::Tensor>& coefficients) {
  auto terms = static_cast<int64_t>(coefficients.size());
  while (terms > 0 && !coefficients[terms - 1].defined()) {
    --terms;
  }
  if (terms == 0) {
    return {};
  }
  if (terms == 1) {
    return {coefficients[0], 1};
  }
  std::vector<at::Tensor> blocks(coefficients.begin(), coefficients.begin() + terms);
  const at::Tensor& last = blocks.back();
  for (const auto k : c10::irange(terms)) {
    if (!blocks[k].defined()) {
      c10::DimVector shape(last.sizes());
      shape[0] = frame.rows_of_order(k + 1);
      blocks[k] = at::zeros(shape, last.options());
    }
  }
  return {at::cat(blocks), terms};
}

Jet padded(const Frame& frame, const Jet& jet, int64_t terms) {
  if (jet.terms >= terms) {
    return jet;
  }
  c10::DimVector shape(jet.rows.sizes());
  shape[0] = frame.rows(terms) - jet.rows.size(0);
  return {at::cat({jet.rows, at::zeros(shape, jet.rows.options())}), terms};
}

Jet add(const Frame& frame, const Jet& a, const Jet& b) {
  if (a.is_zero() || b.is_zero()) {
    return a.is_zero() ? b : a;
  }
  if (!a.products.empty() || !b.products.empty()) {
    Jet sum = add(frame, {a.rows, a.terms}, {b.rows, b.terms});
    sum.products = a.products;
    sum.products.insert(sum.products.end(), b.products.begin(), b.products.end());
    return sum;
  }
  const int64_t dim = std::max(a.rows.dim(), b.rows.dim()) - 1;
  if (a.terms == b.terms) {
    return {align(a.rows, dim) + align(b.rows, dim), a.terms};
  }
  const int64_t terms = std::max(a.terms, b.terms);
  return {align(padded(frame, a, terms).rows, dim) + align(padded(frame, b, terms).rows, dim), terms};
}

at::Tensor multiply_out(
    const Monomials& monomials,
    int64_t n,
    const std::vector<Product>& products,
    const at::Tensor& rest) {
  at::Tensor sum = rest;
  for (const Product& product : products) {
    at::Tensor term =
        multiply_polynomials(monomials, product.order_a, product.a, n - product.order_a, product.b) * product.factor;
    if (product.weight.defined()) {
      term = term * product.weight;
    }
    sum = sum.defined() ? sum + term : term;
  }
  return sum;
}

Jet multiplied_out(const Frame& frame, const Jet& jet) {
  if (jet.products.empty()) {
    return jet;
  }
  std::vector<at::Tensor> coefficients;
  for (const auto k : c10::irange<int64_t>(1, frame.order)) {
    coefficients.push_back(coefficient(frame, jet, k));
  }
  coefficients.push_back(
      multiply_out(*frame.monomials, frame.order, jet.products, coefficient(frame, jet, frame.order)));
  return join(frame, coefficients);
}

Jet scaled(const Jet& jet, double factor) {
  if (jet.is_zero() || factor == 1) {
    return jet;
  }
  Jet result{jet.terms > 0 ? jet.rows * factor : jet.rows, jet.terms, jet.products};
  for (Product& product : result.products) {
    product.factor *= factor;
  }
  return result;
}

at::Tensor multiply_rows(const Frame& frame, int64_t j, const at::Tensor& a, int64_t l, const at::Tensor& b) {
  return frame.is_multivariate() ? multiply_polynomials(*frame.monomials, j, a, l, b) : a * b;
}

at::Tensor sum_directions(const Frame& frame, const at::Tensor& rows) {
  if (!frame.weights.defined()) {
    return rows.sum(0, /*keepdim=*/true);
  }
  c10::DimVector shape(rows.sizes());
  shape[0] = 1;
  return at::mv(rows.reshape({rows.size(0), -1}).t(), frame.weights).view(shape);
}

} // namespace highgrad::taylor
