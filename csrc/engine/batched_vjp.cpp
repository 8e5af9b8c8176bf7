#include "engine/batched_vjp.h"

#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/record_function.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/engine.h>

#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <utility>

#include "engine/failure.h"
#include "engine/vmap_level.h"
#include "ops/joined_shape.h"

namespace highgrad::engine {
namespace {

using torch::autograd::edge_list;
using torch::autograd::Engine;

// Takes functorch's warnings of missing batching rules out of the stream of warnings; passes on all others.
class MissingRuleHandler : public at::WarningHandler {
 public:
  MissingRuleHandler(at::WarningHandler* next, std::vector<std::string>* ops) : next_(next), ops_(ops) {}

  void process(const c10::Warning& warning) override {
    // "There is a performance drop because we have not yet implemented the batching rule for aten::foo. Please ..."
    static constexpr const char* kMarker = "not yet implemented the batching rule for ";
    const std::string& message = warning.msg();
    const size_t marker = message.find(kMarker);
    if (marker == std::string::npos) {
      next_->process(warning);
      return;
    }
    const size_t begin = marker + std::strlen(kMarker);
    ops_->push_back(message.substr(begin, message.find_first_of(" ", begin) - begin));
    while (!ops_->back().empty() && ops_->back().back() == '.') {
      ops_->back().pop_back();
    }
  }

 private:
  at::WarningHandler* next_;
  std::vector<std::string>* ops_;
};

// The physical tensor of shape [B, ...] behind a result of the sweep.
at::Tensor unwrap_rows(at::Tensor&& grad, int64_t batch_size, int64_t level) {
  auto* batched = at::functorch::maybeGetBatchedImpl(grad);
  if (batched != nullptr && batched->level() == level) {
    at::Tensor rows = batched->value();
    const int64_t batch_dim = batched->bdim();
    grad.reset();
    return batch_dim == 0 ? rows : rows.movedim(batch_dim, 0);
  }
  // A backward that does not look at its cotangents gives one value for all rows.
  if (grad.layout() != at::kStrided) {
    grad = grad.to_dense();
  }
  return grad.unsqueeze(0).expand(ops::joined_shape(batch_size, grad.sizes()));
}

// Note [Naming the Node that fails]
// An exception of the engine does not say which Node threw it. RecordFunction runs a callback at the end of every
// Node, also when an exception leaves it, which tells the Node; the last one told is the outermost, the one on our
// tape. The callback may run on a thread of the engine's, so the name is shared, and there is one search at a time. A
// second one, in another thread or in a backward that the first one runs, does not wait, which could be forever.
struct FailingNode {
  std::atomic<bool> is_searching = false;
  std::mutex guard;
  std::string name;
};

FailingNode& failing_node() {
  static auto* node = new FailingNode;
  return *node;
}

struct ObservedNode : public at::ObserverContext {
  explicit ObservedNode(int exceptions) : exceptions(exceptions) {}
  int exceptions;
};

std::unique_ptr<at::ObserverContext> on_node_begin(const at::RecordFunction&) {
  return std::make_unique<ObservedNode>(std::uncaught_exceptions());
}

void on_node_end(const at::RecordFunction& function, at::ObserverContext* context) {
  if (std::uncaught_exceptions() > static_cast<ObservedNode*>(context)->exceptions) {
    const std::lock_guard<std::mutex> lock(failing_node().guard);
    failing_node().name = function.name();
  }
}

} // namespace

std::vector<at::Tensor> batched_vjp(
    const edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const edge_list& inputs,
    SweepOptions options,
    std::vector<std::string>* looped_ops) {
  const int64_t batch_size = cotangents.at(0).size(0);
  const VmapLevel vmap(batch_size);
  std::vector<std::string> ignored;
  MissingRuleHandler handler(c10::WarningUtils::get_warning_handler(), looped_ops ? looped_ops : &ignored);
  const c10::WarningUtils::WarningHandlerGuard handler_guard(&handler);
  std::vector<at::Tensor> batched;
  batched.reserve(cotangents.size());
  for (const at::Tensor& cotangent : cotangents) {
    batched.push_back(at::functorch::makeBatched(cotangent, 0, vmap.level()));
  }
  auto grads = Engine::get_default_engine().execute(
      outputs, batched, options.keep_graph, options.create_graph, /*accumulate_grad=*/false, inputs);
  batched.clear();
  for (at::Tensor& grad : grads) {
    if (grad.defined()) {
      grad = unwrap_rows(std::move(grad), batch_size, vmap.level());
    }
  }
  return grads;
}

std::vector<at::Tensor> single_vjp(
    const edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const edge_list& inputs,
    SweepOptions options) {
  auto grads = Engine::get_default_engine().execute(
      outputs, cotangents, options.keep_graph, options.create_graph, /*accumulate_grad=*/false, inputs);
  for (at::Tensor& grad : grads) {
    if (grad.defined()) {
      grad = (grad.layout() == at::kStrided ? grad : grad.to_dense()).unsqueeze(0);
    }
  }
  return grads;
}

std::string find_failing_node(
    const edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const edge_list& inputs) {
  if (failing_node().is_searching.exchange(true)) {
    return "a Node";
  }
  const auto handle = at::addThreadLocalCallback(
      at::RecordFunctionCallback(&on_node_begin, &on_node_end).scopes({at::RecordScope::BACKWARD_FUNCTION}));
  try {
    batched_vjp(outputs, cotangents, inputs, {});
  } catch (...) {
    discard_python_error();
  }
  at::removeCallback(handle);
  std::string name;
  {
    const std::lock_guard<std::mutex> lock(failing_node().guard);
    name.swap(failing_node().name);
  }
  failing_node().is_searching = false;
  return name;
}

} // namespace highgrad::engine
