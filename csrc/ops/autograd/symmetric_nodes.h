#pragma once

#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <string>

#include "ops/expand_symmetric.h"

namespace highgrad::ops {

struct SymmetricBackward : public torch::autograd::Node {
  int64_t size = 0;
  int64_t order = 0;
};

struct ExpandSymmetricBackward : public SymmetricBackward {
  std::string name() const override {
    return "ExpandSymmetricBackward";
  }
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    return {grads[0].defined() ? fold_symmetric(grads[0], size, order) : at::Tensor()};
  }
};

struct FoldSymmetricBackward : public SymmetricBackward {
  std::string name() const override {
    return "FoldSymmetricBackward";
  }
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    return {grads[0].defined() ? expand_symmetric(grads[0], size, order) : at::Tensor()};
  }
};

} // namespace highgrad::ops
