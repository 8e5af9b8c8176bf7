#pragma once

#include <torch/csrc/autograd/function.h>

#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace highgrad::engine {

// Keeps sweeps from writing to the .grad of intermediates on which retain_grad() was called: their hooks are taken off
// for the life of the object.
class RetainedGrads {
 public:
  RetainedGrads() = default;
  RetainedGrads(const RetainedGrads&) = delete;
  RetainedGrads& operator=(const RetainedGrads&) = delete;

  void suspend(torch::autograd::Node* node) {
    if (!node->retains_grad_hooks().empty()) {
      suspended_.emplace_back(node, Hooks{});
      suspended_.back().second.swap(node->retains_grad_hooks());
    }
  }

  ~RetainedGrads() {
    for (auto& [node, hooks] : suspended_) {
      node->retains_grad_hooks().swap(hooks);
    }
  }

 private:
  using Hooks = std::unordered_map<size_t, std::unique_ptr<torch::autograd::FunctionPreHook>>;
  std::vector<std::pair<torch::autograd::Node*, Hooks>> suspended_;
};

} // namespace highgrad::engine
