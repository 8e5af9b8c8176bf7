#include "taylor/jet.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>

#include <algorithm>

namespace highgrad::taylor {

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
  return jet.rows.narrow(0, (k - 1) * frame.directions, frame.rows_of_order(k));
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
  const int64_t dim = std::max(a.rows.dim(), b.rows.dim()) - 1;
  if (a.terms == b.terms) {
    return {align(a.rows, dim) + align(b.rows, dim), a.terms};
  }
  const int64_t terms = std::max(a.terms, b.terms);
  return {align(padded(frame, a, terms).rows, dim) + align(padded(frame, b, terms).rows, dim), terms};
}

Jet scaled(const Jet& jet, double factor) {
  return jet.is_zero() || factor == 1 ? jet : Jet{jet.rows * factor, jet.terms};
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
