#include "engine/split_tape.h"

#include <ATen/core/grad_mode.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function_hook.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "ops/joined_shape.h"
#include "vjp/program.h"

namespace highgrad::engine {

using torch::autograd::Edge;
using torch::autograd::edge_list;
using torch::autograd::Node;
using torch::autograd::variable_list;

// What stand-ins share with the sweep that runs them.
struct SplitSweep {
  const VmapLevel* level = nullptr;
  std::atomic<Node*> failed = nullptr; // a stand-in
};

namespace {

// Each failure ends a sweep, which starts again: after so many kinds of Nodes, rows are the better way.
constexpr size_t kMostFailed = 8;

struct TensorPreHooks : public torch::autograd::FunctionPreHook {
  explicit TensorPreHooks(Node& node) : node(node) {}

  variable_list operator()(const variable_list& grads) override {
    variable_list changed = grads;
    for (const auto& hook : node.tensor_pre_hooks()) {
      changed = (*hook)(changed);
    }
    return changed;
  }

  Node& node;
};

struct PreHooks : public torch::autograd::FunctionPreHook {
  explicit PreHooks(Node& node) : node(node) {}

  variable_list operator()(const variable_list& grads) override {
    variable_list changed = grads;
    for (const auto& hook : node.pre_hooks()) {
      changed = (*hook)(changed);
    }
    return changed;
  }

  Node& node;
};

struct PostHooks : public torch::autograd::FunctionPostHook {
  explicit PostHooks(Node& node) : node(node) {}

  variable_list operator()(const variable_list& outputs, const variable_list& inputs) override {
    variable_list changed = outputs;
    for (const auto& hook : node.post_hooks()) {
      changed = (*hook)(changed, inputs);
    }
    return changed;
  }

  Node& node;
};

// The rows of one output, [rows, *shape], with zeros for those that a Node left undefined; undefined if all are.
at::Tensor stack_rows(std::vector<at::Tensor>& rows) {
  const auto defined = std::find_if(rows.begin(), rows.end(), [](const at::Tensor& row) { return row.defined(); });
  if (defined == rows.end()) {
    return {};
  }
  const at::Tensor like = *defined;
  for (at::Tensor& row : rows) {
    row = row.defined() ? row : at::zeros_like(like);
  }
  return at::stack(rows);
}

// [rows, *shape], without memory of their own where all rows are the same.
at::Tensor rows_at(const at::Tensor& tensor, const VmapLevel& level) {
  auto* batched = at::functorch::maybeGetBatchedImpl(tensor);
  if (batched != nullptr && batched->level() == level.level()) {
    return batched->bdim() == 0 ? batched->value() : batched->value().movedim(batched->bdim(), 0);
  }
  return tensor.unsqueeze(0).expand(ops::joined_shape(level.batch_size(), tensor.sizes()));
}

// See Note [Splitting the tape].
class StandIn : public Node {
 public:
  // vjp: the Node's product by our table, which takes the place of torch's, or null.
  StandIn(Node& node, edge_list&& links, std::shared_ptr<SplitSweep> sweep, bool is_looped, vjp::BatchedVjp vjp)
      : Node(node.sequence_nr(), std::move(links)),
        node_(node.getptr()),
        sweep_(std::move(sweep)),
        is_looped_(is_looped),
        vjp_(std::move(vjp)) {
    for (const auto i : c10::irange(node.num_inputs())) {
      input_metadata_.emplace_back(node.input_metadata(i));
    }
    if (!node.tensor_pre_hooks().empty()) {
      add_tensor_pre_hook(std::make_unique<TensorPreHooks>(node));
    }
    if (!node.pre_hooks().empty()) {
      add_pre_hook(std::make_unique<PreHooks>(node));
    }
    if (!node.post_hooks().empty()) {
      add_post_hook(std::make_unique<PostHooks>(node));
    }
  }

  std::string name() const override {
    return node_->name();
  }

  bool is_looped() const {
    return is_looped_;
  }

  void loop() {
    is_looped_ = true;
  }

 protected:
  variable_list apply(variable_list&& inputs) override {
    try {
      variable_list outputs = is_looped_ ? run_rows(inputs) : vjp_ ? run_vjp(inputs) : (*node_)(std::move(inputs));
      validate(outputs);
      return outputs;
    } catch (...) {
      sweep_->failed = this;
      throw;
    }
  }

 private:
  // The engine does so as well, but what it finds would not be known to come from this Node.
  void validate(variable_list& outputs) const {
    torch::autograd::validate_outputs(next_edges(), outputs, [&](const std::string& message) {
      return "Function " + name() + " returned an " + message;
    });
  }

  variable_list run_vjp(const variable_list& inputs) {
    const int64_t level = sweep_->level->level();
    vjp::Cotangents outputs;
    {
      const OutsideVmapLevel outside(*sweep_->level);
      vjp::Cotangents cotangents(inputs.size());
      for (const auto i : c10::irange(inputs.size())) {
        if (inputs[i].defined()) {
          cotangents[i] = rows_at(inputs[i], *sweep_->level);
        }
      }
      vjp_(cotangents, outputs);
    }
    for (at::Tensor& output : outputs) {
      if (output.defined()) {
        output = at::functorch::makeBatched(output, 0, level);
      }
    }
    return outputs;
  }

  variable_list run_rows(const variable_list& inputs) {
    const int64_t level = sweep_->level->level();
    variable_list outputs;
    {
      const OutsideVmapLevel outside(*sweep_->level);
      std::vector<variable_list> rows_of(inputs.size());
      for (const auto i : c10::irange(inputs.size())) {
        auto* batched = inputs[i].defined() ? at::functorch::maybeGetBatchedImpl(inputs[i]) : nullptr;
        if (batched != nullptr && batched->level() == level) {
          rows_of[i] = batched->value().unbind(batched->bdim());
        }
      }
      std::vector<variable_list> results(num_outputs());
      for (const auto row : c10::irange(sweep_->level->batch_size())) {
        variable_list cotangents(inputs.size());
        for (const auto i : c10::irange(inputs.size())) {
          if (inputs[i].defined()) {
            // A backward may look at the storage, or write to it.
            cotangents[i] = (rows_of[i].empty() ? inputs[i] : rows_of[i][row]).clone();
          }
        }
        variable_list of_row = (*node_)(std::move(cotangents));
        validate(of_row);
        for (const auto k : c10::irange(num_outputs())) {
          const bool is_wanted = next_edge(k).is_valid() && of_row[k].defined();
          results[k].push_back(
              !is_wanted                               ? at::Tensor()
                  : of_row[k].layout() == at::kStrided ? of_row[k]
                                                       : of_row[k].to_dense());
        }
      }
      for (variable_list& rows : results) {
        outputs.push_back(stack_rows(rows));
        rows.clear();
      }
    }
    for (at::Tensor& output : outputs) {
      if (output.defined()) {
        output = at::functorch::makeBatched(output, 0, level);
      }
    }
    return outputs;
  }

  NodePtr<Node> node_;
  std::shared_ptr<SplitSweep> sweep_;
  bool is_looped_;
  vjp::BatchedVjp vjp_;
};

} // namespace

bool SplitTape::is_needed(tape::Distrust distrust, bool create_graph) {
  return distrust >= tape::Distrust::kNotFinite || (distrust == tape::Distrust::kGraph && create_graph);
}

SplitTape::SplitTape(const tape::Tape& tape, bool create_graph) : sweep_(std::make_shared<SplitSweep>()) {
  for (auto entry = tape.nodes.rbegin(); entry != tape.nodes.rend(); ++entry) {
    if (!entry->runs) {
      continue;
    }
    const auto links = links_of(tape, *entry);
    edge_list edges;
    std::vector<bool> wanted;
    for (const auto k : c10::irange(links.size())) {
      wanted.push_back(links[k].is_on_tape());
      edges.push_back(links[k].is_on_tape() ? stand_in(entry->node->next_edge(k)) : Edge());
    }
    index_.emplace(entry->node, stand_ins_.size());
    const bool is_distrusted = is_needed(entry->distrust, create_graph);
    const at::AutoGradMode recorded(create_graph);
    vjp::BatchedVjp vjp = is_distrusted ? vjp::compile_alone(*entry->node, wanted) : nullptr;
    const bool is_looped = is_distrusted && !vjp;
    stand_ins_.push_back(make_node<StandIn>(*entry->node, std::move(edges), sweep_, is_looped, std::move(vjp)));
    recorded_.emplace_back(entry->node->getptr(), 0);
  }
}

SplitTape::~SplitTape() {
  // Parents first, so that no Node's end is nested in another's.
  while (!stand_ins_.empty()) {
    stand_ins_.pop_back();
  }
}

Edge SplitTape::stand_in(const Edge& edge) const {
  const auto found = index_.find(edge.function.get());
  return found == index_.end() ? edge : Edge(stand_ins_[found->second], edge.input_nr);
}

std::vector<at::Tensor> SplitTape::execute(
    const VmapLevel& level,
    const edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const edge_list& inputs,
    bool create_graph) {
  edge_list from, to;
  for (const Edge& output : outputs) {
    from.push_back(stand_in(output));
  }
  for (const Edge& input : inputs) {
    to.push_back(stand_in(input));
  }
  to.insert(to.end(), recorded_.begin(), recorded_.end());
  sweep_->level = &level;
  sweep_->failed = nullptr;
  std::vector<at::Tensor> grads = torch::autograd::Engine::get_default_engine().execute(
      from, cotangents, /*keep_graph=*/true, create_graph, /*accumulate_grad=*/false, to);
  grads.resize(inputs.size());
  return grads;
}

bool SplitTape::loop_failed() {
  const auto* failed = static_cast<StandIn*>(sweep_->failed.load());
  if (failed == nullptr || failed->is_looped() || failed_.size() == kMostFailed) {
    return false;
  }
  failed_.push_back(failed->name());
  for (const auto& stand_in : stand_ins_) {
    if (stand_in->name() == failed_.back()) {
      static_cast<StandIn&>(*stand_in).loop();
    }
  }
  return true;
}

} // namespace highgrad::engine
