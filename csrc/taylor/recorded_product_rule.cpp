// Jets of recorded products, for operators of operators: the sum of products with series for numbers.

#include <c10/util/irange.h>

#include <algorithm>
#include <array>
#include <vector>

#include "taylor/recorded_product.h"
#include "taylor/rule.h"
#include "taylor/series_of_rows.h"

namespace highgrad::taylor {
namespace {

// One factor as a function of a further direction.
struct FactorOfSeries {
  SeriesOfRows rows;
  Series value;
  int64_t terms;
};

FactorOfSeries factor_of(const Call& call, const MultiplySeriesBackward& node, size_t i) {
  const at::Tensor value = call.saved(node.values[i]);
  return {
      SeriesOfRows(call, node.frame, call.saved(node.rows[i]), value.dim(), i),
      Series(call.frame, call.inputs[2 + i], value, value.dim() + 1),
      node.terms[i]};
}

Jet product_jet(const Call& call, const MultiplySeriesBackward& node) {
  const Frame& outer = call.frame;
  const Frame& inner = node.frame;
  const FactorOfSeries a = factor_of(call, node, 0), b = factor_of(call, node, 1);
  std::vector<Series> y(1);
  for (const auto k : c10::irange<int64_t>(1, inner.order + 1)) {
    std::vector<Series> terms;
    for (const auto j : c10::irange(std::max<int64_t>(1, k - b.terms), std::min(k - 1, a.terms) + 1)) {
      const Series left = a.rows.reaching(k, a.rows.of_order(j)), right = b.rows.reaching(k, b.rows.of_order(k - j));
      const Series term = multiply(outer, left, right);
      terms.push_back(inner.collapsed && k == inner.order ? a.rows.sum_of_directions(term) : term);
    }
    if (k <= a.terms) {
      terms.push_back(multiply(outer, a.rows.of_order(k), b.value));
    }
    if (k <= b.terms) {
      terms.push_back(multiply(outer, b.rows.of_order(k), a.value));
    }
    Series sum = terms.front();
    for (const auto i : c10::irange<size_t>(1, terms.size())) {
      sum = add(outer, sum, terms[i]);
    }
    y.push_back(std::move(sum));
  }
  return a.rows.jet(y);
}

int64_t product_jet_degree(torch::autograd::Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
  return std::min(std::max(inputs[0], inputs[2]) + std::max(inputs[1], inputs[3]), kUnbounded);
}

} // namespace

void add_recorded_product_rule(RuleTable& table) {
  add_rule<MultiplySeriesBackward>(table, product_jet_degree, &product_jet);
}

} // namespace highgrad::taylor
