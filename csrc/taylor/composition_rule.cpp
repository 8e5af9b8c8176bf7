// Jets of recorded compositions, for operators of operators: Horner's rule with series for numbers.

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/stack.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "ops/symmetric_index.h"
#include "taylor/polynomials.h"
#include "taylor/recorded_composition.h"
#include "taylor/series_of_rows.h"

namespace highgrad::taylor {
namespace {

// c_m, ..., where x_0 is a series itself: phi's series at another point is the same one, shifted.
class LocalSeriesOfSeries {
 public:
  // series: c_1, ..., up to the highest m that is asked for and the frame's order more.
  LocalSeriesOfSeries(const Frame& frame, Series x0, at::Tensor series)
      : frame_(frame), x0_(std::move(x0)), series_(std::move(series)) {}

  Series operator[](int64_t m) const {
    std::vector<at::Tensor> derivatives;
    for (const auto l : c10::irange<int64_t>(1, frame_.order + 1)) {
      derivatives.push_back(series_.select(0, m + l - 1) * static_cast<double>(ops::binomial(m + l, l)));
    }
    return compose(frame_, x0_, derivatives).with_value(series_.select(0, m - 1));
  }

 private:
  const Frame& frame_;
  Series x0_;
  at::Tensor series_;
};

// What the tensors of a composition are as functions of a further direction: see SeriesOfRows.
class CompositionOfSeries {
 public:
  CompositionOfSeries(const Call& call, const ComposeSeriesBackward& node)
      : outer_(call.frame),
        inner_(node.frame),
        terms_(node.terms),
        rows_(call, node.frame, call.saved(node.x), node.anchor.unpack().dim()) {
    const at::Tensor anchor = call.saved(node.anchor);
    const LocalSeriesOfSeries local(
        outer_,
        Series(outer_, call.inputs[1], anchor, anchor.dim() + 1),
        record_local_series(node.function, anchor, node.next_edge(1), inner_.order + outer_.order));
    for (const auto m : c10::irange<int64_t>(1, inner_.order + 1)) {
      c_.push_back(local[m]);
    }
  }

  // [rows of outer orders, rows of inner orders, *shape]
  Jet run() {
    const int64_t order = inner_.order;
    const int64_t own_terms = inner_.collapsed && terms_ == order ? order - 1 : terms_;
    std::vector<Series> y{c_.back()};
    for (int64_t m = order - 1; m >= 0; --m) {
      y.emplace_back();
      for (int64_t k = order - m; k > 0; --k) {
        Series sum = product(1, k - 1, rows_.of_order(1), y[k - 1]);
        for (const auto j : c10::irange<int64_t>(2, std::min(k, own_terms) + 1)) {
          sum = add(outer_, sum, product(j, k - j, rows_.of_order(j), y[k - j]));
        }
        y[k] = std::move(sum);
      }
      if (m > 0) {
        y[0] = c_[m - 1];
      }
    }
    if (inner_.collapsed) {
      y[order] = rows_.sum_of_directions(y[order]);
      if (terms_ == order) {
        y[order] = add(outer_, y[order], multiply(outer_, rows_.of_order(order), c_[0]));
      }
    }
    return rows_.jet(y);
  }

 private:
  // Of rows of inner orders j and l.
  Series product(int64_t j, int64_t l, const Series& a, const Series& b) const {
    if (!inner_.is_multivariate() || l == 0) {
      return multiply(outer_, rows_.reaching(j + l, a), rows_.reaching(j + l, b));
    }
    const Series left = a.map([&](const at::Tensor& rows) { return rows.unsqueeze(rows_.row_dim(rows) + 1); });
    const Series right = b.map([&](const at::Tensor& rows) { return rows.unsqueeze(rows_.row_dim(rows)); });
    return multiply(outer_, left, right).map([&](const at::Tensor& pairs) {
      const int64_t dim = rows_.row_dim(pairs) - 1;
      const at::Tensor first = pairs.flatten(dim, dim + 1).movedim(dim, 0);
      return fold_pairs(*inner_.monomials, j, l, first).movedim(0, dim);
    });
  }

  const Frame& outer_;
  const Frame& inner_;
  int64_t terms_;
  SeriesOfRows rows_;
  std::vector<Series> c_; // c_1, ...
};

Jet local_series_jet(const Call& call, const LocalSeriesBackward& node) {
  const at::Tensor anchor = call.saved(node.anchor);
  const LocalSeriesOfSeries local(
      call.frame,
      call.series(0, anchor),
      record_local_series(node.function, anchor, node.next_edge(0), node.orders + call.frame.order));
  std::vector<Series> rows;
  for (const auto m : c10::irange<int64_t>(1, node.orders + 1)) {
    rows.push_back(local[m]);
  }
  std::vector<at::Tensor> coefficients;
  for (const auto k : c10::irange<int64_t>(1, call.frame.order + 1)) {
    std::vector<at::Tensor> of_order;
    for (const Series& row : rows) {
      of_order.push_back(row[k]);
    }
    coefficients.push_back(of_order.front().defined() ? at::stack(of_order, 1) : at::Tensor());
  }
  return join(call.frame, coefficients);
}

} // namespace

void add_composition_rules(RuleTable& table) {
  add_rule<ComposeSeriesBackward>(table, nonlinear_degree, [](const Call& call, const ComposeSeriesBackward& node) {
    return CompositionOfSeries(call, node).run();
  });
  add_rule<LocalSeriesBackward>(table, nonlinear_degree, &local_series_jet);
}

} // namespace highgrad::taylor
