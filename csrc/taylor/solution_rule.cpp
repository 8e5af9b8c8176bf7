// Jets of recorded solutions, for operators of operators: the recurrence of a solution, with series for numbers.

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "taylor/recorded_solution.h"
#include "taylor/series_of_rows.h"

namespace highgrad::taylor {
namespace {

// What the tensors of a solution are as functions of a further direction: see SeriesOfRows.
class SeriesOfSeries {
 public:
  SeriesOfSeries(const Call& call, const SolveSeriesBackward& node)
      : outer_(call.frame),
        inner_(node.frame),
        slope_(node.slope),
        terms_(node.terms),
        rows_(call, node.frame, call.saved(node.x), node.y0.unpack().dim()) {
    const at::Tensor y0 = call.saved(node.y0);
    y_.push_back(Series(outer_, call.inputs[1], y0, y0.dim() + 1));
    if (call.inputs.size() > 2) {
      w_.push_back(Series(outer_, call.inputs[2], call.saved(node.w0), y0.dim() + 1));
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
        sum = rows_.sum_of_directions(sum);
        if (terms_ == k) {
          const Series last = multiply(outer_, rows_.of_order(k), w_[0]);
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
    return rows_.jet(y_);
  }

 private:
  // The sum over j up to `last` of (j / k) x_j b_(k-j), without a value if there are none.
  Series integral(int64_t k, int64_t last, const std::vector<Series>& b) const {
    Series sum{at::Tensor()};
    for (const auto j : c10::irange<int64_t>(1, std::min(last, terms_) + 1)) {
      const Series product = multiply(outer_, rows_.reaching(k, rows_.of_order(j)), rows_.reaching(k, b[k - j]));
      const Series term = scale(outer_, product, static_cast<double>(j) / static_cast<double>(k));
      sum = sum.value().defined() ? add(outer_, sum, term) : term;
    }
    return sum;
  }

  Series square_of_order(int64_t k) const {
    Series sum = scale(outer_, multiply(outer_, rows_.reaching(k, y_[0]), y_[k]), 2);
    for (const auto j : c10::irange<int64_t>(1, k)) {
      sum = add(outer_, sum, multiply(outer_, rows_.reaching(k, y_[j]), rows_.reaching(k, y_[k - j])));
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

  const Frame& outer_;
  const Frame& inner_;
  const Slope& slope_;
  int64_t terms_;
  SeriesOfRows rows_;
  std::vector<Series> y_, w_;
};

} // namespace

void add_solution_rule(RuleTable& table) {
  add_rule<SolveSeriesBackward>(table, nonlinear_degree, [](const Call& call, const SolveSeriesBackward& node) {
    return SeriesOfSeries(call, node).solve();
  });
}

} // namespace highgrad::taylor
