// Jets of recorded solutions, for operators of operators: the recurrence of a solution, with series for numbers.

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "taylor/recorded_solution.h"

namespace highgrad::taylor {
namespace {

// What the tensors of a solution are as functions of a further direction. `inner` is the solution's own frame, `outer`
// that of the call. Tensors are [rows of inner orders, *shape], and their coefficients [rows of outer orders, ...].
class SeriesOfSeries {
 public:
  SeriesOfSeries(const Call& call, const SolveSeriesBackward& node)
      : outer_(call.frame), inner_(node.frame), slope_(node.slope), terms_(node.terms) {
    const at::Tensor y0 = call.saved(node.y0);
    const at::Tensor x = call.saved(node.x);
    rank_ = y0.dim();
    Jet x_jet = call.inputs[0];
    if (!x_jet.is_zero()) {
      c10::DimVector shape{x_jet.rows.size(0)};
      shape.append(x.sizes().begin(), x.sizes().end());
      x_jet.rows = x_jet.rows.expand(shape);
    }
    x_ = Series(outer_, x_jet, x);
    y_.push_back(Series(outer_, call.inputs[1], y0, rank_ + 1));
    if (call.inputs.size() > 2) {
      w_.push_back(Series(outer_, call.inputs[2], call.saved(node.w0), rank_ + 1));
    } else {
      w_.push_back(shift(slope_of(y_[0], square(outer_, y_[0])), slope_.constant));
    }
  }

  // [rows of outer orders, rows of inner orders, *shape]
  Jet solve() {
    for (const auto k : c10::irange<int64_t>(1, inner_.order + 1)) {
      const bool collapses = inner_.collapsed && k == inner_.order;
      Series sum = integral(k, collapses ? k - 1 : k, w_);
      if (collapses) {
        sum = sum.map([&](const at::Tensor& rows) { return sum_of_directions(rows); });
        if (terms_ == k) {
          const Series last = multiply(outer_, of_order(k), w_[0]);
          sum = sum.value().defined() ? add(outer_, sum, last) : last;
        }
      }
      y_.push_back(std::move(sum));
      if (k < inner_.order) {
        w_.push_back(
            slope_.companion != 0 ? scale(outer_, integral(k, k, y_), slope_.companion)
                                  : slope_of(y_[k], square_of_order(k)));
      }
    }
    std::vector<at::Tensor> coefficients;
    for (const auto i : c10::irange<int64_t>(1, outer_.order + 1)) {
      std::vector<at::Tensor> rows;
      for (const auto k : c10::irange<int64_t>(1, inner_.order + 1)) {
        const at::Tensor& value = y_[k][0];
        c10::DimVector shape(value.sizes());
        shape.insert(shape.begin(), outer_.rows_of_order(i));
        rows.push_back(y_[k][i].defined() ? y_[k][i].expand(shape) : at::zeros(shape, value.options()));
      }
      coefficients.push_back(at::cat(rows, 1));
    }
    return join(outer_, coefficients);
  }

 private:
  int64_t row_dim(const at::Tensor& rows) const {
    return rows.dim() - 1 - rank_;
  }

  Series of_order(int64_t k) const {
    const int64_t first = inner_.rows(k - 1), count = inner_.rows_of_order(k);
    return x_.map([&](const at::Tensor& rows) { return rows.narrow(row_dim(rows), first, count); });
  }

  // Those rows that a product of order k has: of the values, which all directions share, the only one.
  Series reaching(int64_t k, const Series& series) const {
    if (inner_.counts.empty()) {
      return series;
    }
    return series.map([&](const at::Tensor& rows) {
      const int64_t dim = row_dim(rows);
      return dim < 0 || rows.size(dim) <= inner_.counts[k - 1] ? rows : rows.narrow(dim, 0, inner_.counts[k - 1]);
    });
  }

  // The sum over j up to `last` of (j / k) x_j b_(k-j), without a value if there are none.
  Series integral(int64_t k, int64_t last, const std::vector<Series>& b) const {
    Series sum{at::Tensor()};
    for (const auto j : c10::irange<int64_t>(1, std::min(last, terms_) + 1)) {
      const Series product = multiply(outer_, reaching(k, of_order(j)), reaching(k, b[k - j]));
      const Series term = scale(outer_, product, static_cast<double>(j) / static_cast<double>(k));
      sum = sum.value().defined() ? add(outer_, sum, term) : term;
    }
    return sum;
  }

  Series square_of_order(int64_t k) const {
    Series sum = scale(outer_, multiply(outer_, reaching(k, y_[0]), y_[k]), 2);
    for (const auto j : c10::irange<int64_t>(1, k)) {
      sum = add(outer_, sum, multiply(outer_, reaching(k, y_[j]), reaching(k, y_[k - j])));
    }
    return sum;
  }

  // linear y + square (y y)
  Series slope_of(const Series& y, const Series& squared) const {
    if (slope_.square == 0) {
      return scale(outer_, y, slope_.linear);
    }
    const Series curved = scale(outer_, squared, slope_.square);
    return slope_.linear == 0 ? curved : add(outer_, curved, y, slope_.linear);
  }

  at::Tensor sum_of_directions(const at::Tensor& rows) const {
    at::Tensor weighted = rows;
    if (inner_.weights.defined()) {
      c10::DimVector shape(rank_ + 1, 1);
      shape[0] = inner_.directions;
      weighted = rows * inner_.weights.view(shape);
    }
    return weighted.sum(row_dim(rows), /*keepdim=*/true);
  }

  const Frame& outer_;
  const Frame& inner_;
  const Slope& slope_;
  int64_t terms_;
  int64_t rank_ = 0; // dimensions of the values
  Series x_;
  std::vector<Series> y_, w_;
};

} // namespace

void add_solution_rule(RuleTable& table) {
  add_rule<SolveSeriesBackward>(table, nonlinear_degree, [](const Call& call, const SolveSeriesBackward& node) {
    return SeriesOfSeries(call, node).solve();
  });
}

} // namespace highgrad::taylor
