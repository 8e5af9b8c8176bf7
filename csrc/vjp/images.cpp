// Rules of resampling and pooling. A batch of cotangents becomes more images.

#include <ATen/Functions.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// The sizes of a Node's output, and of its input with the batch in its first dimension.
struct Resized {
  std::vector<int64_t> output;
  Shape input;

  at::Tensor images(const at::Tensor& grad) const {
    return grad.flatten(0, 1);
  }

  Shape input_of(const at::Tensor& grad) const {
    Shape sizes = input;
    sizes[0] *= grad.size(0);
    return sizes;
  }
};

// `backward` calls the Node's own operator: of the Node, images of cotangents, and the sizes of output and input.
template <typename T, typename Backward>
void add_resampling(RuleTable& table, Backward backward) {
  add_unary<T>(table, [backward](const Call& call, const T& node) {
    const Resized sizes{to_ints(node.output_size), *call.given[0]};
    return [sizes, resample = backward(node)](const at::Tensor& grad) {
      return resample(sizes.images(grad), sizes.output, sizes.input_of(grad)).view(Call::batch_of(grad, sizes.input));
    };
  });
}

void add_interpolations(RuleTable& table) {
  using Sizes = at::IntArrayRef;
  using at::Tensor;
  add_resampling<UpsampleNearest1DBackward0>(table, [](const auto& node) {
    return [s = node.scales](const Tensor& grad, Sizes out, Sizes in) {
      return at::upsample_nearest1d_backward(grad, out, in, s);
    };
  });
  add_resampling<UpsampleNearest2DBackward0>(table, [](const auto& node) {
    return [h = node.scales_h, w = node.scales_w](const Tensor& grad, Sizes out, Sizes in) {
      return at::upsample_nearest2d_backward(grad, out, in, h, w);
    };
  });
  add_resampling<UpsampleNearestExact2DBackward0>(table, [](const auto& node) {
    return [h = node.scales_h, w = node.scales_w](const Tensor& grad, Sizes out, Sizes in) {
      return at::_upsample_nearest_exact2d_backward(grad, out, in, h, w);
    };
  });
  add_resampling<UpsampleLinear1DBackward0>(table, [](const auto& node) {
    return [align = node.align_corners, s = node.scales](const Tensor& grad, Sizes out, Sizes in) {
      return at::upsample_linear1d_backward(grad, out, in, align, s);
    };
  });
  add_resampling<UpsampleBilinear2DBackward0>(table, [](const auto& node) {
    return [align = node.align_corners, h = node.scales_h, w = node.scales_w](const Tensor& grad, Sizes out, Sizes in) {
      return at::upsample_bilinear2d_backward(grad, out, in, align, h, w);
    };
  });
  add_resampling<UpsampleBicubic2DBackward0>(table, [](const auto& node) {
    return [align = node.align_corners, h = node.scales_h, w = node.scales_w](const Tensor& grad, Sizes out, Sizes in) {
      return at::upsample_bicubic2d_backward(grad, out, in, align, h, w);
    };
  });
}

// [B, (N,) C, *rest] as [B * N, C, *rest].
at::Tensor as_images(const at::Tensor& grad) {
  return grad.dim() == 4 ? grad : grad.flatten(0, 1);
}

// Of the shape of an image batch, which is all that a pooling's backward reads of its input.
at::Tensor empty_images(const at::Tensor& grad, const Shape& shape) {
  Shape sizes = Call::batch_of(grad, shape);
  if (sizes.size() == 5) {
    sizes[1] *= sizes[0];
    sizes.erase(sizes.begin());
  }
  return at::empty({1}, grad.options()).expand(sizes);
}

void add_poolings(RuleTable& table) {
  add_unary<AvgPool2DBackward0>(table, [](const Call& call, const AvgPool2DBackward0& node) {
    return [shape = *call.given[0],
            kernel = node.kernel_size,
            stride = node.stride,
            padding = node.padding,
            ceil = node.ceil_mode,
            count_padding = node.count_include_pad,
            divisor = node.divisor_override](const at::Tensor& grad) {
      return at::avg_pool2d_backward(
                 as_images(grad), empty_images(grad, shape), kernel, stride, padding, ceil, count_padding, divisor)
          .reshape(Call::batch_of(grad, shape));
    };
  });
  add_unary<AdaptiveAvgPool2DBackward0>(table, [](const Call& call, const AdaptiveAvgPool2DBackward0& /*node*/) {
    return [shape = *call.given[0]](const at::Tensor& grad) {
      return at::_adaptive_avg_pool2d_backward(as_images(grad), empty_images(grad, shape))
          .reshape(Call::batch_of(grad, shape));
    };
  });
  // Windows may overlap: their cotangents are added where both chose the same place.
  add_rule<MaxPool2DWithIndicesBackward0>(
      table, [](const Call& call, const MaxPool2DWithIndicesBackward0& node) -> BatchedVjp {
        return [shape = *call.given[0], index = call.saved(node.result1_).flatten(-2)](
                   Cotangents& taken, Cotangents& given) {
          if (!taken[0].defined()) {
            return;
          }
          const at::Tensor grad = taken[0].flatten(-2);
          Shape places = Call::batch_of(grad, shape);
          places[places.size() - 2] *= places.back();
          places.pop_back();
          given[0] = at::zeros(places, grad.options())
                         .scatter_add(-1, index.expand_as(grad), grad)
                         .view(Call::batch_of(grad, shape));
        };
      });
}

} // namespace

void add_image_rules(RuleTable& table) {
  add_interpolations(table);
  add_poolings(table);
}

} // namespace highgrad::vjp
