#include "engine/joined_outputs.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/unsafe_split_with_sizes.h>
#include <c10/util/flat_hash_map.h>

#include "ops/joined_shape.h"
#include "plan/cost.h"

namespace highgrad::engine {
namespace {

// Nanoseconds of all outputs' sweeps above which they are large enough to be planned by themselves: their structure may
// be worth more than what they share.
constexpr double kLarge = 1e6;

// Of the time of their own sweeps, what shared ones may take at most: estimates are rough.
constexpr double kMostOfApart = 0.75;

// Whether sweeps over what lies behind all outputs are less work than those over what lies behind each.
bool joining_pays(const std::vector<at::Tensor>& outputs, const std::vector<tape::Tape>& tapes) {
  const plan::CostModel& model = plan::cost_model(outputs[0].device(), /*needs_engine=*/false);
  ska::flat_hash_map<const torch::autograd::Node*, plan::Work> works;
  plan::Work all;
  all.nodes = static_cast<int64_t>(outputs.size()); // those that join
  double apart = 0;
  int64_t rows = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    plan::Work own;
    for (const tape::TapeNode& node : tapes[i].nodes) {
      const auto [entry, is_new] = works.emplace(node.node, plan::Work());
      if (is_new) {
        entry->second = plan::work_of(tapes[i], node);
        all.add(entry->second);
      }
      own.add(entry->second);
    }
    apart += model.reverse(own, outputs[i].numel());
    rows += outputs[i].numel();
  }
  return apart < kLarge && model.reverse(all, rows) < kMostOfApart * apart;
}

} // namespace

at::Tensor join_outputs(
    const std::vector<at::Tensor>& outputs,
    const std::vector<tape::Tape>& tapes,
    const JacobianOptions& options) {
  if (outputs.size() < 2 || options.strict || !options.plans.empty() || options.layout != at::kStrided ||
      options.batch_dims > 0 || options.mode == plan::Mode::kForward) {
    return {};
  }
  bool are_scalars = true;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const at::Tensor& output = outputs[i];
    if (tapes[i].nodes.empty() || output.numel() == 0 || output.layout() != at::kStrided ||
        output.scalar_type() != outputs[0].scalar_type() || output.device() != outputs[0].device()) {
      return {};
    }
    are_scalars = are_scalars && output.dim() == 0;
  }
  if (!joining_pays(outputs, tapes)) {
    return {};
  }
  const at::AutoGradMode recorded(true);
  if (are_scalars) {
    return at::stack(outputs);
  }
  std::vector<at::Tensor> flat;
  for (const at::Tensor& output : outputs) {
    flat.push_back(output.dim() == 1 ? output : output.reshape({-1}));
  }
  return at::cat(flat);
}

std::vector<at::Tensor> split_jacobian(
    const at::Tensor& jacobian,
    const std::vector<at::Tensor>& outputs,
    const at::Tensor& input) {
  std::vector<int64_t> rows;
  for (const at::Tensor& output : outputs) {
    rows.push_back(output.numel());
  }
  std::vector<at::Tensor> parts = jacobian.unsafe_split_with_sizes(rows);
  for (size_t i = 0; i < outputs.size(); ++i) {
    parts[i] = at::_unsafe_view(parts[i], ops::joined_shape(outputs[i].sizes(), input.sizes()));
  }
  return parts;
}

} // namespace highgrad::engine
