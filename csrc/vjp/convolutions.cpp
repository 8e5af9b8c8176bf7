// Rules of convolutions, transposed ones too, and of their recorded backward. A batch of cotangents becomes more
// samples; by the weight, all rows are one product with the windows of the input.

#include <ATen/ops/bmm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <c10/util/accumulate.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// Kernels of a convolution's backward take channels so many at a time, with zeros where there are fewer.
constexpr int64_t kChannelsTogether = 16;

struct Convolution {
  // Of images of this shape.
  template <typename T>
  Convolution(const T& node, const Shape& images)
      : stride(to_ints(node.stride)),
        padding(to_ints(node.padding)),
        dilation(to_ints(node.dilation)),
        output_padding(to_ints(node.output_padding)),
        transposed(node.transposed),
        groups(node.groups.guard_int(__FILE__, __LINE__)) {
    for (Shape* values : {&stride, &padding, &dilation, &output_padding}) {
      if (values->size() == 1) {
        values->resize(images.size() - 2, values->front()); // one for all
      }
    }
  }

  // The windows that a kernel of these sizes meets in `x`, [..., *space]: [..., *places, *kernel], as a view.
  at::Tensor windows(at::Tensor x, at::IntArrayRef kernel, at::IntArrayRef places) const {
    const auto spatial = static_cast<int64_t>(kernel.size());
    std::vector<int64_t> pad;
    for (int64_t axis = spatial - 1; axis >= 0; --axis) {
      pad.insert(pad.end(), 2, padding[axis]);
    }
    x = at::constant_pad_nd(x, pad, 0);
    const int64_t first = x.dim() - spatial;
    for (const auto axis : c10::irange(spatial)) {
      x = x.unfold(first + axis, (kernel[axis] - 1) * dilation[axis] + 1, stride[axis]);
      x = x.slice(-1, 0, std::nullopt, dilation[axis]).narrow(first + axis, 0, places[axis]);
    }
    return x;
  }

  at::Tensor apply(const at::Tensor& x, const at::Tensor& weight) const {
    return at::convolution(x, weight, std::nullopt, stride, padding, dilation, transposed, output_padding, groups);
  }

  Shape stride, padding, dilation, output_padding;
  bool transposed;
  int64_t groups;
};

Shape space_of(at::IntArrayRef sizes) {
  return sizes.slice(2).vec();
}

// From a batch of cotangents of what a convolution gives to that of one of its operands.
using Rows = std::function<at::Tensor(const at::Tensor&)>;

// `first`, the dimensions [from, from + count), and so on, in order.
std::vector<int64_t> join(std::vector<int64_t> first, int64_t from, int64_t count) {
  for (const auto dim : c10::irange(from, from + count)) {
    first.push_back(dim);
  }
  return first;
}

// [B, N, O, *places] to [B, *weight.shape]: the cotangents of all rows by the windows of the input.
Rows by_weight(const Convolution& of, const at::Tensor& input, const Shape& weight) {
  const Shape kernel = space_of(weight);
  const int64_t samples = input.size(0), groups = of.groups, size = c10::multiply_integers(kernel);
  const int64_t channels = input.size(1) / groups, spatial = static_cast<int64_t>(kernel.size());
  if (!of.transposed) {
    const int64_t outputs = weight[0] / groups;
    return [=](const at::Tensor& grad) {
      const int64_t batch = grad.size(0);
      // [groups, N * places, channels * kernel].
      std::vector<int64_t> order = join({1, 0}, 3, spatial);
      order.push_back(2);
      const at::Tensor windows = of.windows(input, kernel, grad.sizes().slice(3))
                                     .unflatten(1, {groups, channels})
                                     .permute(join(order, 3 + spatial, spatial))
                                     .reshape({groups, -1, channels * size});
      const at::Tensor rows = grad.reshape({batch, samples, groups, outputs, -1})
                                  .permute({2, 0, 3, 1, 4})
                                  .reshape({groups, batch * outputs, -1});
      return rows.bmm(windows)
          .view({groups, batch, outputs, channels, size})
          .transpose(0, 1)
          .reshape(Call::batch_of(grad, weight));
    };
  }
  const int64_t outputs = weight[1];
  const at::Tensor elements =
      input.reshape({samples, groups, channels, -1}).permute({1, 0, 3, 2}).reshape({groups, -1, channels});
  return [=, places = space_of(input.sizes())](const at::Tensor& grad) {
    const int64_t batch = grad.size(0);
    // [groups, B * outputs * kernel, N * places].
    std::vector<int64_t> order = join({2, 0, 3}, 4 + spatial, spatial);
    order.push_back(1);
    const at::Tensor windows = of.windows(grad, kernel, places)
                                   .unflatten(2, {groups, outputs})
                                   .permute(join(order, 4, spatial))
                                   .reshape({groups, batch * outputs * size, -1});
    return windows.bmm(elements)
        .view({groups, batch, outputs, size, channels})
        .permute({1, 0, 4, 2, 3})
        .reshape(Call::batch_of(grad, weight));
  };
}

// With strides of 1: a convolution of the cotangents with the weight mirrored, its input and output channels exchanged.
Rows by_mirrored_weight(const Convolution& of, const at::Tensor& weight, const Shape& shape) {
  std::vector<int64_t> axes, padding;
  for (const auto axis : c10::irange(weight.dim() - 2)) {
    axes.push_back(axis + 2);
    padding.push_back(of.dilation[axis] * (weight.size(axis + 2) - 1) - of.padding[axis]);
  }
  const at::Tensor mirrored = weight.flip(axes).transpose(0, 1).contiguous();
  return [=](const at::Tensor& grad) {
    return at::convolution(
               grad.flatten(0, 1),
               mirrored,
               std::nullopt,
               of.stride,
               padding,
               of.dilation,
               /*transposed=*/false,
               of.output_padding,
               /*groups=*/1)
        .reshape(Call::batch_of(grad, shape));
  };
}

// A backward's kernels pad the channels of both its sides.
bool is_faster_mirrored(const Convolution& of, const at::Tensor& weight) {
  if (of.transposed || of.groups > 1 || !weight.device().is_cpu() || weight.size(1) >= kChannelsTogether ||
      weight.numel() <= weight.size(0) * weight.size(1)) {
    return false;
  }
  for (const auto axis : c10::irange(of.stride.size())) {
    const int64_t reach = of.dilation[axis] * (weight.size(static_cast<int64_t>(axis) + 2) - 1);
    if (of.stride[axis] != 1 || of.padding[axis] > reach) {
      return false;
    }
  }
  return true;
}

Rows by_input(const Convolution& of, const at::Tensor& weight, const Shape& shape) {
  if (is_faster_mirrored(of, weight)) {
    return by_mirrored_weight(of, weight, shape);
  }
  return [=](const at::Tensor& grad) {
    Shape folded = shape;
    folded[0] *= grad.size(0);
    // Its shape is all that is read of the input.
    const at::Tensor input = at::empty({1}, grad.options()).expand(folded);
    const auto grads = at::convolution_backward(
        grad.flatten(0, 1),
        input,
        weight,
        std::nullopt,
        of.stride,
        of.padding,
        of.dilation,
        of.transposed,
        of.output_padding,
        of.groups,
        {true, false, false});
    return std::get<0>(grads).reshape(Call::batch_of(grad, shape));
  };
}

BatchedVjp convolution(const Call& call, const ConvolutionBackward0& node) {
  const Convolution of(node, call.taken[0]);
  const bool wants_bias = call.given.size() > 2 && call.wants(2);
  const Rows inputs = call.wants(0) ? by_input(of, call.saved(node.weight_), *call.given[0]) : Rows();
  const Rows weights = call.wants(1) ? by_weight(of, call.saved(node.input_), *call.given[1]) : Rows();
  return [=](Cotangents& taken, Cotangents& given) {
    const at::Tensor& grad = taken[0];
    if (inputs) {
      given[0] = inputs(grad);
    }
    if (weights) {
      given[1] = weights(grad);
    }
    if (wants_bias) {
      given[2] = grad.flatten(3).sum({1, 3});
    }
  };
}

// [B, *weight.shape] as one weight whose output channels are those of all rows, group by group.
at::Tensor stacked(const Convolution& of, const at::Tensor& weights) {
  const int64_t batch = weights.size(0);
  if (of.transposed) {
    return weights.transpose(0, 1).flatten(1, 2); // [C, B * O, *kernel]
  }
  Shape sizes = weights.sizes().slice(1).vec();
  sizes[0] *= batch;
  return weights.unflatten(1, {of.groups, -1}).transpose(0, 1).reshape(sizes);
}

// The backward's own backward by the cotangent: it is linear in that, on the tapes of forward mode.
BatchedVjp recorded_convolution(const Call& call, const ConvolutionBackwardBackward0& node) {
  if (call.wants(1) || call.wants(2) || !call.wants(0)) {
    return nullptr;
  }
  const Convolution of(node, *call.given[0]);
  return [of, input = call.saved(node.input_), weight = call.saved(node.weight_), shape = *call.given[0]](
             Cotangents& taken, Cotangents& given) {
    const auto add = [&](const at::Tensor& rows) { given[0] = given[0].defined() ? given[0] + rows : rows; };
    if (taken[0].defined()) {
      const at::Tensor rows = of.apply(taken[0].flatten(0, 1), weight);
      add(rows.view(Call::batch_of(taken[0], shape)));
    }
    if (taken[1].defined()) {
      const int64_t batch = taken[1].size(0);
      // [N, groups * B * outputs, *places].
      const at::Tensor rows = of.apply(input, stacked(of, taken[1]));
      add(rows.unflatten(1, {of.groups, batch, -1}).movedim(2, 0).reshape(Call::batch_of(taken[1], shape)));
    }
    if (taken[2].defined()) {
      Shape channels(shape.size(), 1);
      channels[1] = shape[1];
      add(taken[2].reshape(Call::batch_of(taken[2], channels)).expand(Call::batch_of(taken[2], shape)));
    }
  };
}

} // namespace

void add_convolution_rules(RuleTable& table) {
  add_rule<ConvolutionBackward0>(table, &convolution);
  add_rule<ConvolutionBackwardBackward0>(table, &recorded_convolution);
}

} // namespace highgrad::vjp
