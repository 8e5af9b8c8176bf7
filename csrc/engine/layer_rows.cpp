#include "engine/layer_rows.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/div.h>
#include <ATen/ops/im2col.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/stack.h>
#include <c10/util/accumulate.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <tuple>
#include <typeindex>
#include <unordered_map>
#include <utility>

#include "ops/joined_shape.h"
#include "tape/summing_node.h"
#include "vjp/rule.h"

namespace highgrad::engine {
namespace {

using namespace torch::autograd::generated;
using torch::autograd::Node;
using Shape = std::vector<int64_t>;

// The same from cotangents [samples, colors, *rest of the output].
using RestRows = std::function<at::Tensor(const at::Tensor&)>;

// Raises vjp::Unserved where unpacking calls a user's hook, and for sparse matrices.
at::Tensor saved(Node& node, const torch::autograd::SavedVariable& variable) {
  if (variable.has_hooks()) {
    throw vjp::Unserved("a saved tensor has hooks");
  }
  const at::Tensor tensor = variable.unpack(node.getptr());
  if (tensor.defined() && tensor.layout() != at::kStrided) {
    throw vjp::Unserved("a saved tensor is not strided");
  }
  return at::GradMode::is_enabled() || !tensor.defined() ? tensor : tensor.detach();
}

// [samples, colors, t, h] and features [samples * t, d]: [samples, colors, h, d], or its transpose [.., d, h].
at::Tensor products(const at::Tensor& cotangents, const at::Tensor& features, bool transposed) {
  const int64_t samples = cotangents.size(0), colors = cotangents.size(1), h = cotangents.size(3);
  const int64_t d = features.size(1);
  const at::Tensor x = features.reshape({samples, -1, d});
  if (x.size(1) == 1 && transposed) {
    return at::mul(x.view({samples, 1, d, 1}), cotangents);
  }
  if (x.size(1) == 1) {
    return at::mul(cotangents.transpose(2, 3), x.view({samples, 1, 1, d}));
  }
  const at::Tensor rows = cotangents.transpose(2, 3).reshape({samples, colors * h, -1}).bmm(x);
  const at::Tensor blocks = rows.view({samples, colors, h, d});
  return transposed ? blocks.transpose(2, 3) : blocks;
}

RestRows weight_rows(const at::Tensor& features, const at::Scalar& alpha, bool transposed) {
  const at::Tensor x = alpha.equal(1) ? features : at::mul(features, alpha);
  return [x, transposed](const at::Tensor& cotangents) {
    const int64_t h = cotangents.size(-1);
    return products(cotangents.reshape({cotangents.size(0), cotangents.size(1), -1, h}), x, transposed);
  };
}

// Of a vector that the rows of a matrix are multiplied by.
RestRows vector_rows(const at::Tensor& features, const at::Scalar& alpha) {
  return [rows = weight_rows(features, alpha, /*transposed=*/false)](const at::Tensor& cotangents) {
    return rows(cotangents.unsqueeze(-1)).squeeze(2);
  };
}

// Of what is multiplied by `factor`, if that is defined, and broadcast from `shape`, over the samples too. Null where
// the samples have operands of their own.
RestRows broadcast_rows(const LayerOutput& output, const Shape& shape, at::Tensor factor, const at::Scalar& alpha) {
  const auto in_rest = output.shape_in_rest(shape);
  if (!in_rest.has_value()) {
    return nullptr;
  }
  if (factor.defined()) {
    factor = output.broadcast(factor);
  }
  return [=, in_rest = *in_rest](const at::Tensor& cotangents) {
    at::Tensor rows = factor.defined() ? at::mul(cotangents, factor) : cotangents;
    rows = vjp::sum_broadcast(rows, 2, in_rest);
    rows = rows.reshape(ops::joined_shape(rows.sizes().slice(0, 2), shape));
    return alpha.equal(1) ? rows : at::mul(rows, alpha);
  };
}

// A Node as a layer, with the operand that one of its links leads to.
class Layer {
 public:
  Layer(Node& node, size_t link, Shape operand, LayerOutput output)
      : node_(node), link_(link), operand_(std::move(operand)), output_(std::move(output)) {}

  static bool is_known(const Node& node) {
    return rows_by_node().count(typeid(node)) > 0 || dynamic_cast<const tape::SummingNode*>(&node) != nullptr;
  }

  static bool may_lack_samples(const Node& node, size_t link, bool is_broadcast) {
    const auto row = rows_by_node().find(typeid(node));
    if (row == rows_by_node().end()) {
      return is_broadcast && is_known(node);
    }
    return is_broadcast || (link > 0 && (row->second.is_product || row->first == typeid(BmmBackward0)));
  }

  // `transposed`: of a matrix whose transpose the Node multiplies by.
  OperandRows rows(bool transposed) const {
    if (auto* summing = dynamic_cast<tape::SummingNode*>(&node_)) {
      return transposed ? nullptr : expanded_rows(*summing);
    }
    const auto row = rows_by_node().find(typeid(node_));
    if (row == rows_by_node().end() || (transposed && !row->second.takes_transpose) ||
        (row->second.is_product && output_.axis() != 0)) {
      return nullptr;
    }
    RestRows rows = (this->*row->second.rows)(transposed);
    if (!rows) {
      return nullptr;
    }
    return [rows = std::move(rows), output = output_](const at::Tensor& cotangents) {
      return rows(output.rows_of_samples(cotangents));
    };
  }

 private:
  struct NodeRow {
    RestRows (Layer::*rows)(bool transposed) const;
    bool is_product = false; // with features of the samples, which are its first dimension
    bool takes_transpose = false;
  };

  static const std::unordered_map<std::type_index, NodeRow>& rows_by_node() {
    static const std::unordered_map<std::type_index, NodeRow> rows{
        {typeid(MmBackward0), {&Layer::mm, true, true}},
        {typeid(AddmmBackward0), {&Layer::addmm, true, true}},
        {typeid(BmmBackward0), {&Layer::bmm}},
        {typeid(MvBackward0), {&Layer::mv, true}},
        {typeid(AddmvBackward0), {&Layer::addmv, true}},
        {typeid(AddBackward0), {&Layer::add}},
        {typeid(SubBackward0), {&Layer::sub}},
        {typeid(MulBackward0), {&Layer::mul}},
        {typeid(DivBackward0), {&Layer::div}},
        {typeid(ExpandBackward0), {&Layer::expand}},
        {typeid(NativeLayerNormBackward0), {&Layer::layer_norm}},
        {typeid(ConvolutionBackward0), {&Layer::convolution, true}}};
    return rows;
  }

  template <typename T>
  const T& node() const {
    return static_cast<const T&>(node_);
  }

  // Of a jet, whose coefficients are the first dimension; it may have fewer than the output.
  OperandRows expanded_rows(tape::SummingNode& summing) const {
    if (link_ != 0 || output_.axis() == 0 || operand_.size() != output_.shape().size() ||
        !output_.shape_in_rest(operand_).has_value()) {
      return nullptr;
    }
    return [&summing, output = output_, operand = operand_](const at::Tensor& cotangents) {
      std::vector<at::Tensor> expanded;
      for (const at::Tensor& cotangent : cotangents.unbind(0)) {
        expanded.push_back(summing.expanded_cotangent(cotangent));
      }
      const at::Tensor all = at::stack(expanded);
      const LayerOutput jet = output.with_first(all.size(1));
      return broadcast_rows(jet, operand, {}, 1)(jet.rows_of_samples(all));
    };
  }

  RestRows broadcast(const at::Tensor& factor, const at::Scalar& alpha) const {
    return broadcast_rows(output_, operand_, factor, alpha);
  }

  RestRows mm(bool transposed) const {
    return link_ == 1 ? weight_rows(features(node<MmBackward0>().self_), 1, !transposed) : nullptr;
  }

  RestRows addmm(bool transposed) const {
    const auto& addmm = node<AddmmBackward0>();
    if (link_ == 2) {
      return weight_rows(features(addmm.mat1_), addmm.alpha, !transposed);
    }
    return link_ == 0 && !transposed ? broadcast({}, addmm.beta) : nullptr;
  }

  // Of a batch of matrices, all of which have the samples for rows.
  RestRows bmm(bool /*transposed*/) const {
    if (link_ != 1 || output_.axis() != 1) {
      return nullptr;
    }
    // Rows of a sample, which may be one, in a dimension before the last.
    const auto with_rows = [is_row = output_.is_only_samples()](const at::Tensor& tensor) {
      return is_row ? tensor.unsqueeze(-2) : tensor;
    };
    const at::Tensor features = with_rows(output_.samples_first(saved(node_, node<BmmBackward0>().self_)));
    return [x = features.transpose(-2, -1).unsqueeze(1), with_rows](const at::Tensor& cotangents) {
      const at::Tensor rows = with_rows(cotangents);
      return rows.size(-2) == 1 ? at::mul(x, rows) : at::matmul(x, rows);
    };
  }

  RestRows mv(bool /*transposed*/) const {
    return link_ == 1 ? vector_rows(features(node<MvBackward0>().self_), 1) : nullptr;
  }

  RestRows addmv(bool /*transposed*/) const {
    const auto& addmv = node<AddmvBackward0>();
    return link_ == 2 ? vector_rows(features(addmv.mat_), addmv.alpha) : nullptr;
  }

  RestRows add(bool /*transposed*/) const {
    return broadcast({}, link_ == 0 ? at::Scalar(1) : node<AddBackward0>().alpha);
  }

  RestRows sub(bool /*transposed*/) const {
    return broadcast({}, link_ == 0 ? at::Scalar(1) : -node<SubBackward0>().alpha);
  }

  RestRows mul(bool /*transposed*/) const {
    const auto& mul = node<MulBackward0>();
    return broadcast(saved(node_, link_ == 0 ? mul.other_ : mul.self_), 1);
  }

  RestRows div(bool /*transposed*/) const {
    const auto& div = node<DivBackward0>();
    const at::Tensor divisor = saved(node_, div.other_);
    return broadcast(
        link_ == 0 ? at::reciprocal(divisor) : at::div(at::div(saved(node_, div.self_), divisor), divisor),
        link_ == 0 ? 1 : -1);
  }

  RestRows expand(bool /*transposed*/) const {
    return broadcast({}, 1);
  }

  RestRows layer_norm(bool /*transposed*/) const {
    if (link_ == 2) {
      return broadcast({}, 1);
    }
    return link_ == 1 ? norm_rows(node<NativeLayerNormBackward0>()) : nullptr;
  }

  RestRows convolution(bool /*transposed*/) const {
    return convolution_rows(node<ConvolutionBackward0>());
  }

  // A matrix of as many rows as the output has, those of each sample together: [samples * .., columns].
  at::Tensor features(const torch::autograd::SavedVariable& variable) const {
    const at::Tensor matrix = saved(node_, variable);
    return output_.samples_first(matrix).reshape({-1, matrix.size(1)});
  }

  // Of the weight of a layer norm. The mean and the deviation that it saved carry no graph.
  RestRows norm_rows(const NativeLayerNormBackward0& norm) const {
    const at::Tensor input = saved(node_, norm.input_);
    const at::Tensor saved_mean = saved(node_, norm.result1_);
    const at::Tensor saved_inverse = saved(node_, norm.result2_);
    std::vector<int64_t> dims;
    for (auto dim = -static_cast<int64_t>(norm.normalized_shape.size()); dim < 0; ++dim) {
      dims.push_back(dim);
    }
    return [=, output = output_, operand = operand_](const at::Tensor& cotangents) {
      at::Tensor mean = saved_mean;
      at::Tensor inverse = saved_inverse;
      if (at::GradMode::is_enabled()) {
        std::tie(mean, inverse) = vjp::recorded_statistics(input, dims, saved_inverse);
      }
      return broadcast_rows(output, operand, (input - mean) * inverse, 1)(cotangents);
    };
  }

  RestRows convolution_rows(const ConvolutionBackward0& convolution) const {
    const size_t spatial = output_.shape().size() - 2;
    if (link_ == 2) {
      Shape channels(spatial + 1, 1);
      channels[0] = operand_[0];
      return [rows = broadcast_rows(output_, channels, {}, 1), operand = operand_](const at::Tensor& cotangents) {
        return rows(cotangents).reshape(ops::joined_shape(cotangents.sizes().slice(0, 2), operand));
      };
    }
    if (link_ != 1 || !output_.is_only_samples() || convolution.transposed || convolution.groups != 1 || spatial < 1 ||
        spatial > 2) {
      return nullptr;
    }
    at::Tensor input = saved(node_, convolution.input_);
    Shape kernel(operand_.begin() + 2, operand_.end());
    Shape dilation = vjp::to_ints(convolution.dilation), padding = vjp::to_ints(convolution.padding),
          stride = vjp::to_ints(convolution.stride);
    if (spatial == 1) {
      input = input.unsqueeze(2);
      kernel.insert(kernel.begin(), 1);
      dilation.insert(dilation.begin(), 1);
      padding.insert(padding.begin(), 0);
      stride.insert(stride.begin(), 1);
    }
    return [=, operand = operand_](const at::Tensor& cotangents) {
      const at::Tensor patches = at::im2col(input, kernel, dilation, padding, stride); // [samples, patch, places]
      const int64_t samples = cotangents.size(0), colors = cotangents.size(1), channels = cotangents.size(2);
      return cotangents.reshape({samples, colors * channels, -1})
          .bmm(patches.transpose(1, 2))
          .view(ops::joined_shape({samples, colors}, operand));
    };
  }

  Node& node_;
  size_t link_;
  Shape operand_;
  LayerOutput output_;
};

} // namespace

std::optional<LayerOutput> LayerOutput::find(Shape shape, int64_t runs, int64_t samples) {
  LayerOutput output;
  output.samples_ = samples;
  while (output.axis_ < shape.size() && runs % shape[output.axis_] == 0) {
    runs /= shape[output.axis_++];
  }
  if (output.axis_ == shape.size() || shape[output.axis_] % (runs * samples) != 0) {
    return std::nullopt;
  }
  output.runs_ = runs;
  output.shape_ = std::move(shape);
  return output;
}

at::Tensor LayerOutput::apart(const at::Tensor& tensor, size_t axis) const {
  Shape sizes = tensor.sizes().vec();
  const Shape parts{runs_, samples_, shape_[axis_] / samples_ / runs_};
  sizes.erase(sizes.begin() + static_cast<int64_t>(axis));
  sizes.insert(sizes.begin() + static_cast<int64_t>(axis), parts.begin(), parts.end());
  const auto place = static_cast<int64_t>(axis) + 1;
  const at::Tensor moved = tensor.reshape(sizes).movedim(place, 0).flatten(place, place + 1);
  return is_only_samples() ? moved.squeeze(place) : moved;
}

at::Tensor LayerOutput::rows_of_samples(const at::Tensor& cotangents) const {
  return apart(cotangents, axis_ + 1).contiguous();
}

at::Tensor LayerOutput::samples_first(const at::Tensor& tensor) const {
  return apart(tensor, axis_);
}

LayerOutput LayerOutput::with_first(int64_t size) const {
  LayerOutput output = *this;
  output.shape_[0] = size;
  return output;
}

at::Tensor LayerOutput::broadcast(const at::Tensor& tensor) const {
  const bool has_axis = shape_.size() - tensor.dim() <= axis_;
  return has_axis ? samples_first(tensor.expand(shape_)).unsqueeze(1) : tensor;
}

std::optional<Shape> LayerOutput::shape_in_rest(Shape operand) const {
  const auto at = static_cast<int64_t>(axis_) - static_cast<int64_t>(shape_.size() - operand.size());
  if (at < 0) {
    return operand;
  }
  if (operand[at] != 1) {
    return std::nullopt;
  }
  if (is_only_samples()) {
    operand.erase(operand.begin() + at);
  }
  return operand;
}

bool may_be_layer(const Node& node) {
  return Layer::is_known(node);
}

bool may_lack_samples(const Node& node, size_t link, int64_t operand_numel, int64_t output_numel, int64_t samples) {
  const bool may_be_broadcast = operand_numel * samples <= output_numel;
  return (may_be_broadcast || link > 0) && Layer::may_lack_samples(node, link, may_be_broadcast);
}

OperandRows operand_rows(Node& node, size_t link, const Shape& operand, bool transposed, const LayerOutput& output) {
  try {
    return Layer(node, link, operand, output).rows(transposed);
  } catch (const vjp::Unserved&) {
    return nullptr;
  }
}

} // namespace highgrad::engine
