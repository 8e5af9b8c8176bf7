#include "engine/batched_vjp.h"

#include <ATen/functorch/BatchedTensorImpl.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/engine.h>

#include <cstring>
#include <utility>

#include "engine/split_tape.h"
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

} // namespace

std::vector<at::Tensor> batched_vjp(
    const edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const edge_list& inputs,
    SweepOptions options,
    std::vector<std::string>* looped_ops,
    SplitTape* split) {
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
  TORCH_INTERNAL_ASSERT(split == nullptr || options.keep_graph);
  auto grads = split != nullptr
      ? split->execute(vmap, outputs, batched, inputs, options.create_graph)
      : Engine::get_default_engine().execute(
            outputs, batched, options.keep_graph, options.create_graph, /*accumulate_grad=*/false, inputs);
  batched.clear();
  for (at::Tensor& grad : grads) {
    if (grad.defined()) {
      grad = unwrap_rows(std::move(grad), batch_size, vmap.level());
    }
  }
  return grads;
}

std::vector<at::Tensor> plain_vjp(
    const edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const edge_list& inputs,
    SweepOptions options) {
  auto grads = Engine::get_default_engine().execute(
      outputs, cotangents, options.keep_graph, options.create_graph, /*accumulate_grad=*/false, inputs);
  for (at::Tensor& grad : grads) {
    if (grad.defined() && grad.layout() != at::kStrided) {
      grad = grad.to_dense();
    }
  }
  return grads;
}

std::vector<at::Tensor> single_vjp(
    const edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const edge_list& inputs,
    SweepOptions options) {
  auto rows = plain_vjp(outputs, cotangents, inputs, options);
  for (at::Tensor& row : rows) {
    if (row.defined()) {
      row = row.unsqueeze(0);
    }
  }
  return rows;
}

} // namespace highgrad::engine
