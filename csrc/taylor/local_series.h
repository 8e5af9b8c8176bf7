#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

#include "ops/local_element.h"
#include "taylor/series.h"

namespace highgrad::taylor {

using ops::LocalKind;

// Of y' = w x'; of a companion, the value of w is given beside that of y.
using Slope = ops::ElementEquation<double>;

// What phi's Taylor series at x_0 is made from.
struct LocalSeries {
  LocalKind kind;
  std::vector<at::Tensor> seeds;
  Slope slope = {};
  double rate = 1;
  double threshold = 0; // in units of rate x; or a slope
};

// A function of one tensor, element by element. `anchor` is what its Node saved, x_0 or phi(x_0).
struct PointwiseFunction {
  // From the series of x, with the anchor as its value, to that of phi(x), whose value is not used.
  std::function<Series(const Frame&, const Series&)> series;
  // The seeds that the anchor gives, where there is a recurrence for them; or null.
  std::function<LocalSeries(const at::Tensor&)> local = nullptr;
};

// c_1, ..., c_orders, given. Records nothing.
at::Tensor expand_at(const PointwiseFunction& function, const at::Tensor& anchor, int64_t orders);

// By the function's recurrence where it has one, else given up to `orders`. Records nothing.
LocalSeries local_series(const PointwiseFunction& function, const at::Tensor& anchor, int64_t orders);

} // namespace highgrad::taylor
