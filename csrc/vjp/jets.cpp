// Rules of Nodes of ours that stand where an operator is recorded.

#include <ATen/Functions.h>
#include <c10/util/irange.h>

#include <utility>
#include <vector>

#include "ops/autograd/symmetric_nodes.h"
#include "taylor/recorded_composition.h"
#include "taylor/recorded_product.h"
#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using torch::autograd::variable_list;

// One cotangent of the batch after another, as the Node takes them.
BatchedVjp one_by_one(const Call& call) {
  return [node = call.node.getptr()](Cotangents& taken, Cotangents& given) {
    std::vector<variable_list> found(given.size());
    for (const at::Tensor& cotangent : taken[0].unbind(0)) {
      variable_list row = (*node)({cotangent});
      for (const auto k : c10::irange(row.size())) {
        if (row[k].defined()) {
          found[k].push_back(std::move(row[k]));
        }
      }
    }
    for (const auto k : c10::irange(given.size())) {
      given[k] = found[k].empty() ? at::Tensor() : at::stack(found[k]);
    }
  };
}

// Of a Node that takes each row of its cotangent for itself.
template <typename T>
void add_by_rows(RuleTable& table) {
  add_unary<T>(table, [](const Call& call, const T&) {
    return [node = call.node.getptr()](const at::Tensor& grad) {
      return (*node)({grad.flatten(0, 1)})[0].unflatten(0, grad.sizes().slice(0, 2));
    };
  });
}

} // namespace

void add_jet_rules(RuleTable& table) {
  using taylor::ComposeSeriesBackward;
  using taylor::LocalSeriesBackward;
  using taylor::MultiplySeriesBackward;
  add_rule<ComposeSeriesBackward>(table, [](const Call& call, const ComposeSeriesBackward& node) -> BatchedVjp {
    call.saved(node.x);
    call.saved(node.anchor);
    return [node = call.node.getptr()](Cotangents& taken, Cotangents& given) {
      auto found = static_cast<ComposeSeriesBackward&>(*node).reverse_batch(taken[0]);
      given[0] = std::move(found.x);
      given[1] = std::move(found.x0);
    };
  });
  add_rule<LocalSeriesBackward>(table, [](const Call& call, const LocalSeriesBackward& node) -> BatchedVjp {
    call.saved(node.anchor);
    return one_by_one(call);
  });
  add_rule<MultiplySeriesBackward>(table, [](const Call& call, const MultiplySeriesBackward& node) -> BatchedVjp {
    for (const auto* saved : {&node.rows, &node.values}) {
      for (const auto& variable : *saved) {
        call.saved(variable);
      }
    }
    return one_by_one(call);
  });
  add_by_rows<ops::ExpandSymmetricBackward>(table);
  add_by_rows<ops::FoldSymmetricBackward>(table);
}

} // namespace highgrad::vjp
