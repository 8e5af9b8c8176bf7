#include "engine/known_weight.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <cstdint>

namespace highgrad::engine {
namespace {

using namespace torch::autograd::generated;
using tape::Slot;
using tape::Tape;

// Where the one link to a tensor comes from: the Node's position, and which of its links it is.
struct Source {
  int32_t node;
  size_t link;
};

std::optional<Source> only_source(const Tape& tape, Slot slot) {
  std::optional<Source> found;
  for (int32_t i = 0; i < slot.node; ++i) {
    const auto links = links_of(tape, tape.nodes[i]);
    for (size_t k = 0; k < links.size(); ++k) {
      if (links[k] == slot) {
        if (found.has_value()) {
          return std::nullopt;
        }
        found = {i, k};
      }
    }
  }
  return found;
}

bool is_plain(const Tape& tape, int32_t node) {
  return tape::is_vjp_linear(*tape.nodes[node].node);
}

} // namespace

at::Tensor KnownWeight::rows(const at::Tensor& cotangents) const {
  return cotangents.defined() ? at::matmul(cotangents.transpose(1, 2), features) : at::Tensor();
}

std::optional<KnownWeight> find_known_weight(const Tape& tape, Slot slot, bool create_graph) {
  const auto transposed = only_source(tape, slot);
  if (!transposed.has_value() || !is_plain(tape, slot.node) || !is_plain(tape, transposed->node) ||
      dynamic_cast<TBackward0*>(tape.nodes[transposed->node].node) == nullptr) {
    return std::nullopt;
  }
  const auto product = only_source(tape, {transposed->node, 0});
  if (!product.has_value() || !is_plain(tape, product->node)) {
    return std::nullopt;
  }
  torch::autograd::Node& node = *tape.nodes[product->node].node;
  const auto self = node.getptr();
  at::Tensor features;
  if (auto* mm = dynamic_cast<MmBackward0*>(&node); mm != nullptr && product->link == 1 && !mm->self_.has_hooks()) {
    features = mm->self_.unpack(self);
  } else if (
      auto* addmm = dynamic_cast<AddmmBackward0*>(&node);
      addmm != nullptr && product->link == 2 && !addmm->mat1_.has_hooks()) {
    features = addmm->mat1_.unpack(self);
    features = addmm->alpha.equal(1) ? features : at::mul(features, addmm->alpha);
  }
  const auto shape = tape::shape_of(node, 0);
  if (!features.defined() || features.layout() != at::kStrided || features.is_complex() || !shape.has_value() ||
      !tape::takes_dtype(node, features.dtype())) {
    return std::nullopt;
  }
  return KnownWeight{{self, 0}, create_graph ? features : features.detach()};
}

} // namespace highgrad::engine
