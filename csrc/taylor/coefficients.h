#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

namespace highgrad::taylor {

// What a tape tells of one output before any work.
struct Outlook {
  // Of the output as a polynomial in the inputs: 0 without a path, kUnbounded if it is none.
  int64_t degree;
  // Which inputs it reaches.
  std::vector<bool> reaches;
  // Why jets cannot flow over its tape, or an empty string.
  std::string obstacle;
};

std::vector<Outlook> inspect(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs);

struct CoefficientOptions {
  std::string caller;
  int64_t order;
  // Only the weighted sum of the last order's coefficients over all directions.
  bool collapsed = false;
  at::Tensor weights;
  // Coefficients in double precision, whatever the tensors' dtype.
  bool in_double = false;
  bool create_graph = true;
};

// Taylor coefficients c_1, ..., c_n of every output along x + t v, v = directions[j] [D, *inputs[j].shape] or undefined
// for zero: [n, D, *output.shape], or collapsed [*output.shape]. Undefined where all are zero. Throws Unsupported.
std::vector<at::Tensor> coefficients(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const std::vector<at::Tensor>& directions,
    const CoefficientOptions& options);

} // namespace highgrad::taylor
