#include "vjp/program.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/real.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/anomaly_mode.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "tape/slot_numbers.h"

namespace highgrad::vjp {
namespace {

using tape::Slot;
using tape::Tape;
using tape::TapeNode;
using torch::autograd::InputMetadata;
using torch::autograd::Node;

// Without grad mode, operators go straight to their kernels.
class BelowAutograd {
 public:
  BelowAutograd() {
    if (!at::GradMode::is_enabled()) {
      guard_.emplace();
    }
  }

 private:
  std::optional<at::AutoDispatchBelowADInplaceOrView> guard_;
};

// The mutex that keeps a Node's saved tensors from being released while they are unpacked.
struct NodeMutex : Node {
  static std::mutex& of(Node& node) {
    return node.*(&NodeMutex::mutex_);
  }
};

at::ScalarType type_of(const InputMetadata& metadata) {
  return c10::typeMetaToScalarType(metadata.dtype());
}

bool takes_complex(const Node& node) {
  for (const auto k : c10::irange(node.num_inputs())) {
    const InputMetadata& metadata = node.input_metadata(k);
    if (!metadata.was_default_constructed() && at::isComplexType(type_of(metadata))) {
      return true;
    }
  }
  return false;
}

// Whether some of the cotangents that it takes, or hands on to the tape, are complex.
bool is_complex(const Tape& tape, const TapeNode& node) {
  const auto links = links_of(tape, node);
  return takes_complex(*node.node) || std::any_of(links.begin(), links.end(), [&](const Slot& link) {
           return link.is_on_tape() &&
               at::isComplexType(type_of(tape.nodes[link.node].node->input_metadata(link.input_nr)));
         });
}

// Whether cotangents there are plain tensors like `output`, or complex ones of its precision. None arrives at an output
// without derivatives.
bool is_plain(const InputMetadata& metadata, const InputMetadata& output) {
  return metadata.was_default_constructed() ||
      !(metadata.is_tensor_subclass() || metadata.is_nested_tensor() || metadata.device() != output.device() ||
        (metadata.dtype() != output.dtype() && c10::toRealValueType(type_of(metadata)) != type_of(output)));
}

// Whether some cotangents of the tape are complex; none if some are not plain.
std::optional<bool> has_complex(const Tape& tape, const InputMetadata& output) {
  bool any = false;
  for (const TapeNode& node : tape.nodes) {
    for (const auto k : c10::irange(node.node->num_inputs())) {
      const InputMetadata& metadata = node.node->input_metadata(k);
      if (!is_plain(metadata, output)) {
        return std::nullopt;
      }
      any = any || (!metadata.was_default_constructed() && metadata.dtype() != output.dtype());
    }
  }
  return any;
}

// Whether some cotangents of the tape are complex; none if it does not run alone, or a Node has no rule.
std::optional<bool> covered(const Tape& tape) {
  if (!tape.output.is_on_tape() || torch::autograd::AnomalyMode::is_enabled() ||
      c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode)) {
    return std::nullopt;
  }
  const InputMetadata& output = tape.nodes[tape.output.node].node->input_metadata(tape.output.input_nr);
  const auto any_complex = at::isFloatingType(type_of(output)) ? has_complex(tape, output) : std::nullopt;
  const auto has_rule = [&](const TapeNode& node) {
    return find_rule(*node.node, *any_complex && is_complex(tape, node)) != nullptr;
  };
  const bool is_covered =
      any_complex.has_value() && std::all_of(tape.nodes.begin(), tape.nodes.end(), [&](const TapeNode& node) {
        return tape::is_vjp_linear(*node.node) && (!node.runs || has_rule(node));
      });
  return is_covered ? any_complex : std::nullopt;
}

// Sums a cotangent over the dimensions that its operand was broadcast along, and casts it, as torch's engine does: to
// its real part, for what is real.
at::Tensor fit(at::Tensor cotangents, const Shape& shape, at::ScalarType dtype) {
  cotangents = sum_broadcast(cotangents, 1, shape);
  if (cotangents.is_complex() && !at::isComplexType(dtype)) {
    cotangents = at::real(cotangents).contiguous();
  }
  return cotangents.scalar_type() == dtype ? cotangents : cotangents.to(dtype);
}

void accumulate(at::Tensor& sum, at::Tensor cotangents) {
  if (!sum.defined()) {
    sum = std::move(cotangents);
  } else if (is_ours(sum)) {
    sum.add_(cotangents);
  } else if (is_ours(cotangents)) {
    sum = cotangents.add_(sum);
  } else {
    sum = at::add(sum, cotangents);
  }
}

// Null if the Node has no rule.
BatchedVjp compile_node(const Call& call, bool is_complex) {
  const Rule* rule = find_rule(call.node, is_complex);
  if (rule == nullptr) {
    return nullptr;
  }
  const std::lock_guard<std::mutex> lock(NodeMutex::of(call.node));
  return (*rule)(call);
}

Call call_of(const Tape& tape, const TapeNode& node, const std::vector<std::vector<Shape>>& shapes, bool is_one_row) {
  Call call{*node.node, shapes[&node - tape.nodes.data()], {}, is_one_row};
  for (const Slot& link : links_of(tape, node)) {
    call.given.push_back(link.is_on_tape() ? std::optional<Shape>(shapes[link.node][link.input_nr]) : std::nullopt);
  }
  return call;
}

} // namespace

bool Program::covers(const Tape& tape) {
  return covered(tape).has_value();
}

std::optional<Program> Program::compile(const Tape& tape, bool is_one_row) {
  // Before anything is unpacked.
  const std::optional<bool> any_complex = covered(tape);
  if (!any_complex.has_value()) {
    return std::nullopt;
  }
  Program program;
  std::vector<std::vector<Shape>> shapes(tape.nodes.size());
  const tape::SlotNumbers number_of(tape);
  program.num_slots_ = static_cast<int64_t>(number_of.size());
  for (const auto i : c10::irange(tape.nodes.size())) {
    const Node& node = *tape.nodes[i].node;
    for (const auto k : c10::irange(node.num_inputs())) {
      auto shape = node.input_metadata(k).was_default_constructed() ? Shape() : tape::shape_of(node, k);
      if (!shape.has_value()) {
        return std::nullopt;
      }
      shapes[i].push_back(std::move(*shape));
    }
  }
  const auto slot_at = [&](Slot slot) { return slot.is_on_tape() ? static_cast<int64_t>(number_of(slot)) : -1; };
  program.output_slot_ = slot_at(tape.output);
  for (const Slot& input : tape.inputs) {
    program.inputs_.push_back(slot_at(input));
  }
  const BelowAutograd below;
  for (const auto i : c10::irange(tape.nodes.size())) {
    const TapeNode& node = tape.nodes[i];
    if (!node.runs) {
      continue;
    }
    Step step{nullptr, static_cast<int64_t>(number_of(i, 0)), static_cast<int64_t>(node.node->num_inputs()), {}, {}};
    try {
      step.vjp = compile_node(call_of(tape, node, shapes, is_one_row), *any_complex && is_complex(tape, node));
    } catch (const Unserved&) {
      return std::nullopt;
    }
    if (!step.vjp) {
      return std::nullopt;
    }
    for (const Slot& link : links_of(tape, node)) {
      Target target{slot_at(link), {}, at::ScalarType::Undefined};
      if (link.is_on_tape()) {
        target.shape = shapes[link.node][link.input_nr];
        target.dtype = type_of(tape.nodes[link.node].node->input_metadata(link.input_nr));
      }
      step.targets.push_back(std::move(target));
    }
    for (const auto j : c10::irange(tape.inputs.size())) {
      if (tape.inputs[j].node == static_cast<int32_t>(i)) {
        step.captures.push_back(static_cast<int64_t>(j));
      }
    }
    program.steps_.push_back(std::move(step));
  }
  return program;
}

Cotangents Program::run(at::Tensor cotangents) const {
  const BelowAutograd below;
  Cotangents slots(num_slots_);
  Cotangents results(inputs_.size());
  slots[output_slot_] = std::move(cotangents);
  Cotangents taken;
  Cotangents given;
  for (const Step& step : steps_) {
    for (const int64_t j : step.captures) {
      results[j] = slots[inputs_[j]];
    }
    taken.clear();
    bool any = false;
    for (const auto k : c10::irange(step.num_slots)) {
      taken.push_back(std::move(slots[step.first_slot + k]));
      any |= taken.back().defined();
    }
    if (!any) {
      continue;
    }
    given.assign(step.targets.size(), {});
    step.vjp(taken, given);
    taken.clear();
    for (const auto k : c10::irange(step.targets.size())) {
      const Target& target = step.targets[k];
      if (target.slot >= 0 && given[k].defined()) {
        accumulate(slots[target.slot], fit(std::move(given[k]), target.shape, target.dtype));
      }
    }
    given.clear();
  }
  for (const auto j : c10::irange(inputs_.size())) {
    if (inputs_[j] >= 0 && !results[j].defined()) {
      results[j] = slots[inputs_[j]];
    }
  }
  return results;
}

BatchedVjp compile_alone(Node& node, const std::vector<bool>& wanted) {
  const InputMetadata& first = node.input_metadata(0);
  if (first.was_default_constructed() || !at::isFloatingType(type_of(first))) {
    return nullptr;
  }
  Call call{node, {}, {}};
  const auto push = [&](auto& shapes, const Node& of, uint32_t k) {
    const InputMetadata& metadata = of.input_metadata(k);
    const bool is_none = metadata.was_default_constructed();
    auto shape = is_none ? Shape() : tape::shape_of(of, k);
    if (!shape.has_value() || !is_plain(metadata, first) || (!is_none && metadata.dtype() != first.dtype())) {
      return false;
    }
    shapes.push_back(std::move(*shape));
    return true;
  };
  for (const auto k : c10::irange(node.num_inputs())) {
    if (!push(call.taken, node, k)) {
      return nullptr;
    }
  }
  for (const auto k : c10::irange(wanted.size())) {
    const torch::autograd::Edge& edge = node.next_edge(k);
    if (!wanted[k]) {
      call.given.push_back(std::nullopt);
    } else if (!push(call.given, *edge.function, edge.input_nr)) {
      return nullptr;
    }
  }
  BatchedVjp vjp;
  try {
    vjp = compile_node(call, /*is_complex=*/false);
  } catch (const Unserved&) {
    return nullptr;
  }
  if (!vjp) {
    return nullptr;
  }
  return
      [vjp = std::move(vjp), given_shapes = call.given, dtype = type_of(first)](Cotangents& taken, Cotangents& given) {
        given.assign(given_shapes.size(), {});
        vjp(taken, given);
        for (const auto k : c10::irange(given.size())) {
          given[k] =
              given[k].defined() && given_shapes[k].has_value() ? fit(given[k], *given_shapes[k], dtype) : at::Tensor();
        }
      };
}

} // namespace highgrad::vjp
