#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

namespace highgrad::tape {

// A Node of ours whose first operand may have been expanded to the shape that it works on: it sums the cotangent over
// those dimensions as it is made, such as over samples.
struct SummingNode : public torch::autograd::Node {
  // The cotangent of the expanded operand, before it is summed.
  virtual at::Tensor expanded_cotangent(const at::Tensor& cotangent) = 0;
};

} // namespace highgrad::tape
