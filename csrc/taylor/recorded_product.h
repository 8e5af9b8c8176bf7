#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "taylor/jet.h"
#include "taylor/rule.h"

namespace highgrad::taylor {

// Note [Recorded products]
// The jet of a product of two tensors of one shape is y_k = sum_j a_j b_(k-j): a gate, a product of features, a
// polynomial's recurrence. All orders along all directions are one pass over memory and one Node, whose backward, the
// correlation of cotangents with the other factor, is another. In float or double, on the CPU; elsewhere, and where the
// backward is recorded itself, in torch's operations.

// A factor: a jet and the tensor itself.
struct Factor {
  Jet jet;
  at::Tensor value;
};

// The jet of a * b, recorded as one Node if anything requires gradients; or none where that does not serve.
std::optional<Jet> multiply_by_element(const Frame& frame, const Factor& a, const Factor& b);

// From the rows of the product to those of a and of b, and to both values.
struct MultiplySeriesBackward : public torch::autograd::Node {
  Frame frame;
  std::vector<int64_t> terms; // of a and of b
  std::vector<torch::autograd::SavedVariable> rows, values;

  std::string name() const override {
    return "MultiplySeriesBackward";
  }
  void release_variables() override;

 protected:
  torch::autograd::variable_list apply(torch::autograd::variable_list&& cotangents) override;

 private:
  std::mutex mutex_;
};

void add_recorded_product_rule(RuleTable& table);

} // namespace highgrad::taylor
