#include "taylor/series.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "taylor/monomials.h"

namespace highgrad::taylor {

Series::Series(const Frame& frame, const Jet& jet, at::Tensor value, int64_t dim) : value_(std::move(value)) {
  // Broadcasting counts dimensions from the right, and every coefficient has one more on the left.
  dim = std::max(dim, value_.defined() ? value_.dim() : 0);
  const int64_t terms = std::min(jet.terms, frame.order);
  if (terms == 0) {
    return;
  }
  rows_ = align(jet.rows, dim);
  for (const auto k : c10::irange<int64_t>(1, terms + 1)) {
    uncut_.push_back(frame.rows_of_order(k));
  }
}

Series Series::of_rows(const Frame& frame, at::Tensor rows, at::Tensor value) {
  Series series(frame, {std::move(rows), frame.order}, std::move(value));
  series.is_placed_ = true;
  return series;
}

void Series::cut() const {
  if (uncut_.empty()) {
    return;
  }
  const std::vector<int64_t> counts = std::exchange(uncut_, {});
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const at::Tensor rows = rows_.size(0) == total ? rows_ : rows_.narrow(0, 0, total);
  // Together: going back, their gradients are then joined once, not each padded with zeros and added.
  coefficients_ = counts.size() == 1 ? std::vector<at::Tensor>{rows} : rows.split_with_sizes(counts);
}

at::Tensor Series::rows(const Frame& frame) const {
  if (uncut_.empty() || !products_.empty()) {
    return {};
  }
  const int64_t count = frame.rows(std::min(terms(), frame.order));
  return rows_.size(0) == count ? rows_ : rows_.narrow(0, 0, count);
}

void Series::allocate(const Frame& frame, at::IntArrayRef row_shape) {
  if (at::GradMode::is_enabled() || frame.is_multivariate()) {
    return;
  }
  c10::DimVector shape(row_shape);
  shape[0] = frame.rows(frame.order);
  rows_ = at::empty(shape, value_.options());
  is_placed_ = true;
}

at::Tensor Series::slot(const Frame& frame, int64_t k) const {
  return is_placed_ ? coefficient(frame, {rows_, frame.order}, k) : at::Tensor();
}

Jet Series::jet(const Frame& frame) const {
  if (!uncut_.empty()) {
    return {rows(frame), std::min(terms(), frame.order)};
  }
  if (frame.contracted && is_placed_ && !rest().defined()) {
    return {rows_, frame.order - 1, products_};
  }
  if (!is_placed_ || terms() < frame.order || frame.contracted) {
    Jet jet = join(frame, coefficients_);
    jet.products = products_;
    return jet;
  }
  // A coefficient that was not computed in its place is small, or zero.
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    const at::Tensor place = slot(frame, k);
    if (!(*this)[k].defined()) {
      place.zero_();
    } else if ((*this)[k].data_ptr() != place.data_ptr()) {
      place.copy_((*this)[k]);
    }
  }
  return {rows_, frame.order};
}

void Series::push_contracted(const Frame& frame, at::Tensor rest, std::vector<Product> products) {
  cut();
  coefficients_.push_back(std::move(rest));
  products_ = std::move(products);
  monomials_ = frame.monomials;
}

const at::Tensor& Series::operator[](int64_t k) const {
  static const auto* zero = new at::Tensor();
  if (k > 0) {
    cut();
  }
  if (k == terms() && !products_.empty()) {
    coefficients_.back() = multiply_out(*monomials_, k, products_, coefficients_.back());
    products_.clear();
  }
  return k == 0 ? value_ : k > terms() ? *zero : coefficients_[k - 1];
}

} // namespace highgrad::taylor
