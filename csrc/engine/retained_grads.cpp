#include "engine/retained_grads.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

namespace highgrad::engine {
namespace {

using torch::autograd::Node;

struct Suspended {
  std::unordered_map<size_t, std::unique_ptr<torch::autograd::FunctionPreHook>> hooks;
  int64_t holders = 0;
};

std::mutex mutex;

// Of the whole process. Never destroyed: hooks may be Python's.
std::unordered_map<Node*, Suspended>& suspended() {
  static auto* nodes = new std::unordered_map<Node*, Suspended>;
  return *nodes;
}

} // namespace

void RetainedGrads::suspend(const tape::Tape& tape) {
  const std::lock_guard<std::mutex> lock(mutex);
  auto& held = suspended();
  for (const tape::TapeNode& entry : tape.nodes) {
    auto& hooks = entry.node->retains_grad_hooks();
    if (hooks.empty() && (held.empty() || held.count(entry.node) == 0)) {
      continue;
    }
    Suspended& found = held[entry.node];
    found.hooks.merge(hooks);
    ++found.holders;
    nodes_.push_back(entry.node);
  }
}

RetainedGrads::~RetainedGrads() {
  if (nodes_.empty()) {
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex);
  for (Node* node : nodes_) {
    const auto found = suspended().find(node);
    if (--found->second.holders == 0) {
      node->retains_grad_hooks().merge(found->second.hooks);
      suspended().erase(found);
    }
  }
}

} // namespace highgrad::engine
