#include "taylor/affine.h"

#include <ATen/ExpandUtils.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/functions/tensor.h>

#include <algorithm>
#include <exception>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "engine/batched_vjp.h"
#include "engine/failure.h"
#include "tape/node_rules.h"

namespace highgrad::taylor {
namespace {

using torch::autograd::edge_list;
using torch::autograd::Node;

const std::unordered_set<std::string_view>& affine_names() {
  static const auto* names = new std::unordered_set<std::string_view>{
      "AdaptiveAvgPool2DBackward0",
      "AdaptiveAvgPool3DBackward0",
      "AdaptiveMaxPool2DBackward0",
      "AdaptiveMaxPool3DBackward0",
      "AliasBackward0_copy",
      "AmaxBackward0",
      "AminBackward0",
      "AminmaxBackward0",
      "AsStridedBackward0",
      "AsStridedBackward0_copy",
      "AsStridedScatterBackward0",
      "AssembleRowsBackward",
      "AvgPool2DBackward0",
      "AvgPool3DBackward0",
      "BernoulliBackward0",
      "BlockDiagBackward0",
      "ChannelShuffleBackward0",
      "ClampBackward0",
      "ClampMaxBackward1",
      "ClampMinBackward1",
      "Col2ImBackward0",
      "ConstantPadNdBackward0",
      "CopyBackwards",
      "CopysignBackward0",
      "CummaxBackward0",
      "CumminBackward0",
      "CumsumBackward0",
      "DiagEmbedBackward0",
      "DiagonalBackward0",
      "DiagonalBackward0_copy",
      "DiagonalScatterBackward0",
      "EmbeddingBackward0",
      "ExpandBackward0_copy",
      "ExpandSymmetricBackward",
      "FillBackward0",
      "FillBackward1",
      "FlipBackward0",
      "FmaxBackward0",
      "FminBackward0",
      "FmodBackward1",
      "FoldSymmetricBackward",
      "FractionalMaxPool2DBackward0",
      "FractionalMaxPool3DBackward0",
      "FrexpBackward0",
      "GatherBackward0",
      "Im2ColBackward0",
      "IndexAddBackward0",
      "IndexBackward0",
      "IndexCopyBackward0",
      "IndexFillBackward0",
      "IndexFillBackward1",
      "IndexPutBackward0",
      "IndexSelectBackward0",
      "KthvalueBackward0",
      "LerpBackward0",
      "MaskedFillBackward0",
      "MaskedFillBackward1",
      "MaskedScatterBackward0",
      "MaxBackward0",
      "MaxBackward1",
      "MaxPool2DWithIndicesBackward0",
      "MaxPool3DWithIndicesBackward0",
      "MaxUnpool2DBackward0",
      "MaxUnpool3DBackward0",
      "MedianBackward0",
      "MedianBackward1",
      "MinBackward0",
      "MinBackward1",
      "ModeBackward0",
      "MultiMarginLossBackward0",
      "MultilabelMarginLossBackward0",
      "NanmedianBackward0",
      "NanmedianBackward1",
      "NansumBackward0",
      "NarrowCopyBackward0",
      "NativeDropoutBackward0",
      "NllLoss2DBackward0",
      "NllLossBackward0",
      "NormalBackward0",
      "NormalBackward1",
      "NormalBackward2",
      "NormalBackward3",
      "PermuteBackward0_copy",
      "PixelShuffleBackward0",
      "PixelUnshuffleBackward0",
      "PutBackward0",
      "ReflectionPad1DBackward0",
      "ReflectionPad2DBackward0",
      "ReflectionPad3DBackward0",
      "RemainderBackward1",
      "RepeatBackward0",
      "ReplicationPad1DBackward0",
      "ReplicationPad2DBackward0",
      "ReplicationPad3DBackward0",
      "RollBackward0",
      "Rot90Backward0",
      "RreluWithNoiseBackward0",
      "ScatterAddBackward0",
      "ScatterBackward0",
      "ScatterBackward1",
      "SelectScatterBackward0",
      "SliceScatterBackward0",
      "SortBackward0",
      "SortBackward1",
      "SplitWithSizesBackward0_copy",
      "SqueezeBackward0_copy",
      "SqueezeBackward1_copy",
      "TBackward0_copy",
      "TakeBackward0",
      "TopkBackward0",
      "TraceBackward0",
      "TransposeBackward0_copy",
      "TrilBackward0",
      "TriuBackward0",
      "UnbindBackward0_copy",
      "UnfoldBackward0",
      "UnfoldBackward0_copy",
      "UnsafeMaskedIndexBackward0",
      "UnsafeMaskedIndexPutAccumulateBackward0",
      "UnsqueezeBackward0_copy",
      "UpsampleBicubic2DAaBackward0",
      "UpsampleBicubic2DBackward0",
      "UpsampleBilinear2DAaBackward0",
      "UpsampleBilinear2DBackward0",
      "UpsampleLinear1DBackward0",
      "UpsampleNearest1DBackward0",
      "UpsampleNearest2DBackward0",
      "UpsampleNearest3DBackward0",
      "UpsampleNearestExact1DBackward0",
      "UpsampleNearestExact2DBackward0",
      "UpsampleNearestExact3DBackward0",
      "UpsampleTrilinear3DBackward0",
      "ViewBackward0_copy",
      "ZeroBackward0",
  };
  return *names;
}

// The last part of a mangled nested name, "N<length><name>...<length><name>E".
std::string_view class_name(std::string_view mangled) {
  size_t position = mangled.substr(0, 1) == "N" ? 1 : 0;
  std::string_view name;
  while (position < mangled.size() && mangled[position] >= '0' && mangled[position] <= '9') {
    size_t length = 0;
    while (position < mangled.size() && mangled[position] >= '0' && mangled[position] <= '9') {
      length = length * 10 + static_cast<size_t>(mangled[position++] - '0');
    }
    name = mangled.substr(position, length);
    position += length;
  }
  return name;
}

// A linear map in the Node's own dtype, applied to coefficients of a wider one: the rest that the narrow dtype cuts off
// goes as rows of its own.
struct SplitRows {
  at::Tensor rows;
  bool split;

  SplitRows(const at::Tensor& wide, at::ScalarType narrow)
      : split(c10::elementSize(wide.scalar_type()) > c10::elementSize(narrow)) {
    rows = wide.to(narrow);
    if (split) {
      rows = at::cat({rows, (wide - rows.to(wide.scalar_type())).to(narrow)});
    }
  }
};

} // namespace

bool is_affine(Node& node) {
  if (typeid(node) == typeid(torch::autograd::CopySlices)) {
    auto& wrapped = static_cast<torch::autograd::CopySlices&>(node).fn;
    return wrapped && is_affine(*wrapped);
  }
  // The transpose is batched as the product itself would be.
  const tape::Distrust distrust = tape::distrust_of(node, [](size_t) { return true; });
  const bool is_trusted = distrust == tape::Distrust::kNone || distrust == tape::Distrust::kNotFinite;
  return is_trusted && tape::is_vjp_recorded(node) && affine_names().count(class_name(typeid(node).name())) > 0;
}

std::vector<Jet> transposed_vjp(const Call& call) {
  Node& node = call.node;
  // The product for dummy cotangents of ones, recorded: it is linear in them.
  edge_list cotangent_edges;
  std::vector<at::Tensor> products;
  {
    const at::AutoGradMode recorded(true);
    std::vector<at::Tensor> cotangents;
    for (const auto k : c10::irange(node.num_inputs())) {
      const auto& metadata = node.input_metadata(k);
      if (metadata.was_default_constructed() || !c10::isFloatingType(c10::typeMetaToScalarType(metadata.dtype()))) {
        cotangents.emplace_back();
        cotangent_edges.emplace_back();
        continue;
      }
      cotangents.push_back(at::ones(call.output_shape(k), metadata.options()).set_requires_grad(true));
      cotangent_edges.push_back(torch::autograd::impl::gradient_edge(cotangents.back()));
    }
    products = node(std::move(cotangents));
  }
  int64_t terms = 0;
  for (const Jet& input : call.inputs) {
    terms = std::max(terms, input.terms);
  }
  edge_list product_edges;
  std::vector<at::Tensor> tangents;
  bool split = false;
  for (const auto k : c10::irange(call.inputs.size())) {
    if (call.inputs[k].is_zero()) {
      continue;
    }
    if (!products[k].defined() || !products[k].requires_grad()) {
      throw Unsupported(node.name() + " gives no product to transpose");
    }
    const Jet jet = padded(call.frame, call.inputs[k], terms);
    at::Tensor product = products[k];
    if (product.sizes() != jet.rows.sizes().slice(1)) {
      // The operation broadcast its input: as the engine does it.
      const at::AutoGradMode recorded(true);
      product = at::sum_to(product, jet.rows.sizes().slice(1));
    }
    SplitRows rows(jet.rows, product.scalar_type());
    split = rows.split;
    tangents.push_back(std::move(rows.rows));
    product_edges.push_back(torch::autograd::impl::gradient_edge(product));
  }
  edge_list reached;
  std::vector<size_t> outputs;
  for (const auto k : c10::irange(cotangent_edges.size())) {
    if (cotangent_edges[k].is_valid()) {
      reached.push_back(cotangent_edges[k]);
      outputs.push_back(k);
    }
  }
  const bool create_graph = at::GradMode::is_enabled();
  std::vector<at::Tensor> maps;
  std::exception_ptr failure;
  try {
    maps = engine::batched_vjp(product_edges, tangents, reached, {/*keep_graph=*/true, create_graph});
  } catch (...) {
    failure = std::current_exception();
  }
  if (failure != nullptr) {
    if (engine::judge_failure(failure) != engine::Failure::kOther) {
      std::rethrow_exception(failure);
    }
    throw Unsupported("torch cannot batch the transpose of " + node.name());
  }
  std::vector<Jet> jets(node.num_inputs());
  for (const auto i : c10::irange(outputs.size())) {
    if (maps[i].defined()) {
      at::Tensor rows = maps[i].to(call.frame.dtype);
      if (split) {
        const int64_t half = rows.size(0) / 2;
        rows = rows.narrow(0, 0, half) + rows.narrow(0, half, half);
      }
      jets[outputs[i]] = {std::move(rows), terms};
    }
  }
  return jets;
}

} // namespace highgrad::taylor
