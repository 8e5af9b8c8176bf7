#include "taylor/series_of_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>

namespace highgrad::taylor {

SeriesOfRows::SeriesOfRows(const Call& call, const Frame& inner, const at::Tensor& x, int64_t rank, size_t input)
    : outer_(call.frame), inner_(inner), rank_(rank) {
  Jet jet = call.inputs[input];
  if (!jet.is_zero()) {
    c10::DimVector shape{jet.rows.size(0)};
    shape.append(x.sizes().begin(), x.sizes().end());
    jet.rows = jet.rows.expand(shape);
  }
  x_ = Series(outer_, jet, x);
}

Series SeriesOfRows::of_order(int64_t k) const {
  const int64_t first = inner_.rows(k - 1), count = inner_.rows_of_order(k);
  return x_.map([&](const at::Tensor& rows) { return rows.narrow(row_dim(rows), first, count); });
}

Series SeriesOfRows::reaching(int64_t k, const Series& series) const {
  if (inner_.counts.empty()) {
    return series;
  }
  return series.map([&](const at::Tensor& rows) {
    const int64_t dim = row_dim(rows);
    return dim < 0 || rows.size(dim) <= inner_.counts[k - 1] ? rows : rows.narrow(dim, 0, inner_.counts[k - 1]);
  });
}

Series SeriesOfRows::sum_of_directions(const Series& series) const {
  return series.map([&](const at::Tensor& rows) {
    at::Tensor weighted = rows;
    if (inner_.weights.defined()) {
      c10::DimVector shape(rank_ + 1, 1);
      shape[0] = inner_.directions;
      weighted = rows * inner_.weights.view(shape);
    }
    return weighted.sum(row_dim(rows), /*keepdim=*/true);
  });
}

Jet SeriesOfRows::jet(const std::vector<Series>& y) const {
  std::vector<at::Tensor> coefficients;
  for (const auto i : c10::irange<int64_t>(1, outer_.order + 1)) {
    std::vector<at::Tensor> rows;
    for (const auto k : c10::irange<int64_t>(1, inner_.order + 1)) {
      const at::Tensor& value = y[k][0];
      c10::DimVector shape(value.sizes());
      shape.insert(shape.begin(), outer_.rows_of_order(i));
      rows.push_back(y[k][i].defined() ? y[k][i].expand(shape) : at::zeros(shape, value.options()));
    }
    coefficients.push_back(at::cat(rows, 1));
  }
  return join(outer_, coefficients);
}

} // namespace highgrad::taylor
