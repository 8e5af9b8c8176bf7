#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace highgrad::engine {

// From the cotangents of a layer's output, [colors, *output.shape], each of all samples, to the rows of an operand that
// has no samples, [samples, colors, *operand.shape].
using OperandRows = std::function<at::Tensor(const at::Tensor&)>;

// A layer's output: one dimension is runs * samples * own. The coefficients of a jet, one after another, are runs of
// samples, in that dimension or in those before it.
class LayerOutput {
 public:
  // runs: of all samples, in the whole tensor. None where samples take no part of a dimension.
  static std::optional<LayerOutput> find(std::vector<int64_t> shape, int64_t runs, int64_t samples);

  // Cotangents [colors, *shape] as [samples, colors, *rest]: what else the dimension of samples has stays in its place,
  // if it is more than one element.
  at::Tensor rows_of_samples(const at::Tensor& cotangents) const;

  // With another size of the first dimension, which has no samples.
  LayerOutput with_first(int64_t size) const;

  // Likewise a tensor with the output's dimension of samples and those before it, whatever follows.
  at::Tensor samples_first(const at::Tensor& tensor) const;

  // A tensor that broadcasts to the output, as one that broadcasts to [samples, colors, *rest].
  at::Tensor broadcast(const at::Tensor& tensor) const;

  // An operand's shape without the dimension of samples, along which [samples, colors, *rest] is summed for it. None
  // where it has samples.
  std::optional<std::vector<int64_t>> shape_in_rest(std::vector<int64_t> operand) const;

  const std::vector<int64_t>& shape() const {
    return shape_;
  }
  // The dimension that has the samples, and whether it has nothing else.
  size_t axis() const {
    return axis_;
  }
  bool is_only_samples() const {
    return shape_[axis_] == samples_;
  }

 private:
  // `tensor`, whose dimension `axis` is the output's that has the samples, with them in front.
  at::Tensor apart(const at::Tensor& tensor, size_t axis) const;

  std::vector<int64_t> shape_;
  size_t axis_ = 0;
  int64_t runs_ = 1; // in that dimension
  int64_t samples_ = 1;
};

// Whether Nodes of this type may be layers.
bool may_be_layer(const torch::autograd::Node& node);

// Whether the operand at link `link`, of so many elements, may be one without samples, as far as sizes and the Node's
// type tell: it is broadcast over them, or multiplied by them.
bool may_lack_samples(
    const torch::autograd::Node& node,
    size_t link,
    int64_t operand_numel,
    int64_t output_numel,
    int64_t samples);

// What the rows of the operand at link `link` are made of, of shape `operand`; or of its transpose, which the operand
// is then of a matrix. Null where the Node is no layer with such an operand.
OperandRows operand_rows(
    torch::autograd::Node& node,
    size_t link,
    const std::vector<int64_t>& operand,
    bool transposed,
    const LayerOutput& output);

} // namespace highgrad::engine
