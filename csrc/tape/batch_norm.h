#pragma once

#include <torch/csrc/autograd/generated/Functions.h>

#include <type_traits>

namespace highgrad::tape {

// What a batch norm adds to the variance, whose name among the saved values differs.
template <typename BatchNorm>
double epsilon_of(const BatchNorm& node) {
  if constexpr (std::is_same_v<BatchNorm, torch::autograd::generated::CudnnBatchNormBackward0>) {
    return node.epsilon;
  } else {
    return node.eps;
  }
}

} // namespace highgrad::tape
