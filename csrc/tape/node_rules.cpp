#include "tape/node_rules.h"

#include <torch/csrc/autograd/functions/tensor.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <typeinfo>

namespace highgrad::tape {

// Note [Distrusted Nodes]
// functorch's batching rule of these Nodes' backward is wrong without an error, for some shapes at least, in a release
// of torch that we support. Tapes that run one of them go row by row. tests/test_distrusted_nodes.py shows each of them
// wrong.
struct DistrustedNode {
  std::string_view name;
  Distrust distrust;
  // Whether the rule is wrong for 0-d cotangents alone, or where only_output computes one.
  bool only_scalars = false;
  // The output whose computation alone is wrong, or none.
  std::optional<size_t> only_output = std::nullopt;
  // Whether the rule differs from the Node on the CPU alone.
  bool only_cpu = false;
};

constexpr std::array kDistrusted = {
    DistrustedNode{"CdistBackward0", Distrust::kValues},
    // Rolls a batch of 0-d tensors along the batch.
    DistrustedNode{"RollBackward0", Distrust::kValues, /*only_scalars=*/true},
    // Takes all elements for the one that a 0-d source was copied to.
    DistrustedNode{"IndexCopyBackward0", Distrust::kValues, /*only_scalars=*/true, /*only_output=*/1},
    // Takes the batch for a dimension of the mask when the sizes agree by accident.
    DistrustedNode{"MaskedSelectBackward0", Distrust::kValues},
    // Multiply a cotangent that is not finite by zero, which the Node itself does on accelerators alone.
    DistrustedNode{"MaxBackward1", Distrust::kNotFinite, false, std::nullopt, /*only_cpu=*/true},
    DistrustedNode{"MedianBackward0", Distrust::kNotFinite, false, std::nullopt, /*only_cpu=*/true},
    DistrustedNode{"MinBackward1", Distrust::kNotFinite, false, std::nullopt, /*only_cpu=*/true},
    DistrustedNode{"NanmedianBackward0", Distrust::kNotFinite, false, std::nullopt, /*only_cpu=*/true},
    // Divides by the differences of singular values, of regular matrices, too.
    DistrustedNode{"LinalgDetBackward0", Distrust::kGraph},
    // Take the saved mean and deviation for constants in the weight's gradient, and in third derivatives.
    DistrustedNode{"NativeLayerNormBackward0", Distrust::kGraph},
    DistrustedNode{"NativeBatchNormBackward0", Distrust::kGraph},
    DistrustedNode{"NativeBatchNormLegitBackward0", Distrust::kGraph},
    DistrustedNode{"CudnnBatchNormBackward0", Distrust::kGraph},
    // Likewise, without a product of ours: looped for the weight alone.
    DistrustedNode{"NativeBatchNormLegitBackward1", Distrust::kGraph, false, /*only_output=*/1},
    DistrustedNode{"MiopenBatchNormBackward0", Distrust::kGraph, false, /*only_output=*/1},
};

// The Nodes whose recorded product is wrong when it is differentiated again, alone or under vmap.
constexpr std::array<std::string_view, 18> kUnrecorded = {
    // Have no double backward. The names of three kinds of attention are also the ends of longer ones.
    "CdistBackward0",
    "CudnnAttentionBackward0",
    "EfficientAttentionBackward0",
    "FlashAttentionBackward0",
    "ScaledDotProductFlashAttentionForCpuBackward0",
    "ScaledDotProductFusedAttentionOverrideableBackward0",
    "CudnnRnnBackward0",
    "MiopenRnnBackward0",
    "MkldnnRnnLayerBackward0",
    // Takes logarithms of its cotangent.
    "LogcumsumexpBackward0",
    // Under vmap, double backward takes the saved mean and deviation for constants.
    "NativeLayerNormBackward0",
    "NativeBatchNormBackward0",
    "NativeBatchNormLegitBackward0",
    "NativeBatchNormLegitBackward1",
    "CudnnBatchNormBackward0",
    "MiopenBatchNormBackward0",
    "NativeGroupNormBackward0",
    // At zero, double backward takes the slope of the other side.
    "PreluKernelBackward0",
};

namespace {

// typeid's name is compared instead of Node::name(), which demangles it at a microsecond a Node. Generated Nodes are
// mangled as "...<length><name>E".
bool is_type(std::string_view mangled, std::string_view name) {
  return mangled.size() > name.size() && mangled.substr(mangled.size() - 1 - name.size(), name.size()) == name;
}

// Of `row`, besides the name. `computes` are the outputs that lead to an input.
bool applies(const DistrustedNode& row, torch::autograd::Node& node, const std::function<bool(size_t)>& computes) {
  if (row.only_cpu && !node.input_metadata(0).device().is_cpu()) {
    return false;
  }
  if (!row.only_output.has_value()) {
    return !row.only_scalars || node.input_metadata(0).shape_as_dim_vector().empty();
  }
  if (!computes(*row.only_output)) {
    return false;
  }
  const torch::autograd::Edge& edge = node.next_edge(*row.only_output);
  return !row.only_scalars || !edge.is_valid() ||
      edge.function->input_metadata(edge.input_nr).shape_as_dim_vector().empty();
}

} // namespace

Distrust distrust_of(torch::autograd::Node& node, const std::function<bool(size_t)>& computes) {
  const std::type_info& type = typeid(node);
  if (type == typeid(torch::autograd::CopySlices)) {
    auto& wrapped = static_cast<torch::autograd::CopySlices&>(node).fn;
    return wrapped ? distrust_of(*wrapped, computes) : Distrust::kNone;
  }
  const std::string_view mangled(type.name());
  for (const DistrustedNode& row : kDistrusted) {
    if (is_type(mangled, row.name) && applies(row, node, computes)) {
      return row.distrust;
    }
  }
  return Distrust::kNone;
}

bool is_vjp_linear(torch::autograd::Node& node) {
  return node.pre_hooks().empty() && node.tensor_pre_hooks().empty() && node.post_hooks().empty() && !is_custom(node);
}

bool is_vjp_recorded(torch::autograd::Node& node) {
  using torch::autograd::generated::EmbeddingBackward0;
  const std::type_info& type = typeid(node);
  // Double backward leaves the frequencies out.
  if (type == typeid(EmbeddingBackward0) && static_cast<EmbeddingBackward0&>(node).scale_grad_by_freq) {
    return false;
  }
  if (type == typeid(torch::autograd::CopySlices)) {
    auto& wrapped = static_cast<torch::autograd::CopySlices&>(node).fn;
    return is_vjp_linear(node) && (!wrapped || is_vjp_recorded(*wrapped));
  }
  const std::string_view mangled(type.name());
  return is_vjp_linear(node) && std::none_of(kUnrecorded.begin(), kUnrecorded.end(), [&](std::string_view name) {
           return is_type(mangled, name);
         });
}

bool is_custom(torch::autograd::Node& node) {
  const std::type_info& type = typeid(node);
  if (type == typeid(torch::autograd::CopySlices)) {
    auto& wrapped = static_cast<torch::autograd::CopySlices&>(node).fn;
    return wrapped && is_custom(*wrapped);
  }
  const std::string_view mangled(type.name());
  const auto is_in = [&](std::string_view scope) { return mangled.substr(0, scope.size()) == scope; };
  // torch::autograd::PyNode and torch::autograd::CppNode<T> are the custom Functions.
  return !is_in("N8highgrad") &&
      (!is_in("N5torch8autograd") || is_in("N5torch8autograd6PyNode") || is_in("N5torch8autograd7CppNode"));
}

bool is_recorded_wrong(const torch::autograd::Node& node) {
  namespace generated = torch::autograd::generated;
  const std::type_info& type = typeid(node);
  // The first takes the saved norm for a constant, the second logarithms of its cotangent; the others have no double
  // backward.
  return type == typeid(generated::WeightNormInterfaceBackward0) || type == typeid(generated::LogcumsumexpBackward0) ||
      type == typeid(generated::ScaledDotProductCudnnAttentionBackward0) ||
      type == typeid(generated::ScaledDotProductEfficientAttentionBackward0) ||
      type == typeid(generated::ScaledDotProductFlashAttentionBackward0) ||
      type == typeid(generated::ScaledDotProductFlashAttentionForCpuBackward0) ||
      type == typeid(generated::CudnnRnnBackward0) || type == typeid(generated::MkldnnRnnLayerBackward0);
}

std::vector<std::string> distrusted_nodes() {
  std::vector<std::string> names;
  for (const DistrustedNode& row : kDistrusted) {
    names.emplace_back(row.name);
  }
  return names;
}

} // namespace highgrad::tape
