#pragma once

#include <ATen/ops/mul.h>

#include <utility>
#include <vector>

#include "vjp/rule.h"

namespace highgrad::vjp {

// f'(x) of a function of one argument: `factor` gives it from the Call and the Node.
template <typename T, typename Factor>
void add_factor(RuleTable& table, Factor factor) {
  add_unary<T>(table, [factor](const Call& call, const T& node) {
    return [scale = factor(call, node)](at::Tensor grad) { return times(std::move(grad), scale); };
  });
}

template <typename T, typename Factor>
void add_factor_of_self(RuleTable& table, Factor factor) {
  add_factor<T>(table, [factor](const Call& call, const T& node) { return factor(call.saved(node.self_)); });
}

template <typename T, typename Factor>
void add_factor_of_result(RuleTable& table, Factor factor) {
  add_factor<T>(table, [factor](const Call& call, const T& node) { return factor(call.saved(node.result_)); });
}

// Of functions of several operands, each with a factor; undefined where nobody wants it.
inline BatchedVjp by_factors(std::vector<at::Tensor> factors) {
  return [factors = std::move(factors)](Cotangents& taken, Cotangents& given) {
    for (size_t k = 0; k < factors.size(); ++k) {
      if (factors[k].defined()) {
        given[k] = at::mul(taken[0], factors[k]);
      }
    }
  };
}

} // namespace highgrad::vjp
