#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <utility>

#include "taylor/recorded_composition.h"
#include "taylor/rule.h"

// How rows of functions of one tensor, element by element, are added to the table.
namespace highgrad::taylor {

// From the series x of the input to that of the output. Values of the result are not used.
using Function = Series (*)(const Frame&, const Series&);
// Likewise, where the Node saved its output y; the value of x is not known.
using FunctionOfResult = Series (*)(const Frame&, const Series&, at::Tensor y);

// From what the Node saved to the seeds of the function's own series.
using Seeds = LocalSeries (*)(const at::Tensor& anchor);

template <typename T>
void add_function(RuleTable& table, Function function, Seeds seeds = nullptr) {
  const auto shared = std::make_shared<const PointwiseFunction>(PointwiseFunction{function, seeds});
  add_rule<T>(table, nonlinear_degree, [shared](const Call& call, const T& node) {
    return apply_function(call, call.saved(node.self_), shared);
  });
}

// Likewise of a Node that saved more than its argument: make_function is given it.
template <typename T, typename MakeFunction>
void add_family(RuleTable& table, MakeFunction make_function) {
  add_rule<T>(table, nonlinear_degree, [make_function](const Call& call, const T& node) {
    return apply_function(call, call.saved(node.self_), std::make_shared<const PointwiseFunction>(make_function(node)));
  });
}

template <typename T>
void add_function_of_result(RuleTable& table, FunctionOfResult function, Seeds seeds = nullptr) {
  const auto of_series = [function](const Frame& frame, const Series& x) { return function(frame, x, x[0]); };
  const auto shared = std::make_shared<const PointwiseFunction>(PointwiseFunction{of_series, seeds});
  add_rule<T>(table, nonlinear_degree, [shared](const Call& call, const T& node) {
    return apply_function(call, call.saved(node.result_), shared);
  });
}

} // namespace highgrad::taylor
