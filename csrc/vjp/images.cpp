// Rules of resampling, pooling, padding and rearranging. A batch of cotangents becomes more images, or channels.

#include <ATen/Functions.h>
#include <c10/util/accumulate.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <array>
#include <tuple>
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
  add_resampling<UpsampleNearest3DBackward0>(table, [](const auto& node) {
    return [d = node.scales_d, h = node.scales_h, w = node.scales_w](const Tensor& grad, Sizes out, Sizes in) {
      return at::upsample_nearest3d_backward(grad, out, in, d, h, w);
    };
  });
  add_resampling<UpsampleNearestExact1DBackward0>(table, [](const auto& node) {
    return [s = node.scales](const Tensor& grad, Sizes out, Sizes in) {
      return at::_upsample_nearest_exact1d_backward(grad, out, in, s);
    };
  });
  add_resampling<UpsampleNearestExact3DBackward0>(table, [](const auto& node) {
    return [d = node.scales_d, h = node.scales_h, w = node.scales_w](const Tensor& grad, Sizes out, Sizes in) {
      return at::_upsample_nearest_exact3d_backward(grad, out, in, d, h, w);
    };
  });
  add_resampling<UpsampleTrilinear3DBackward0>(table, [](const auto& node) {
    return [align = node.align_corners, d = node.scales_d, h = node.scales_h, w = node.scales_w](
               const Tensor& grad, Sizes out, Sizes in) {
      return at::upsample_trilinear3d_backward(grad, out, in, align, d, h, w);
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

// The last `space` dimensions stay; what comes before becomes the channels of one image.
at::Tensor as_image(const at::Tensor& grad, int64_t space) {
  return grad.flatten(0, -space - 1);
}

// Of the shape of such an image, which is all that these backwards read of their input.
at::Tensor empty_image(const at::Tensor& grad, const Shape& shape, int64_t space) {
  Shape sizes(shape.end() - space, shape.end());
  sizes.insert(sizes.begin(), as_image(grad, space).size(0));
  return at::empty({1}, grad.options()).expand(sizes);
}

// `backward` calls the Node's own operator: of the Node, a cotangent and what stands for the input.
template <typename T, int64_t space, typename Backward>
void add_image(RuleTable& table, Backward backward) {
  add_unary<T>(table, [backward](const Call& call, const T& node) {
    return [shape = *call.given[0], of_image = backward(node)](const at::Tensor& grad) {
      return of_image(as_image(grad, space), empty_image(grad, shape, space)).reshape(Call::batch_of(grad, shape));
    };
  });
}

// Windows may overlap: their cotangents are added where both chose the same place.
template <typename T, int64_t space>
void add_max_pooling(RuleTable& table) {
  add_rule<T>(table, [](const Call& call, const T& node) -> BatchedVjp {
    const Shape shape = *call.given[0];
    Shape flat(shape.begin(), shape.end() - space);
    flat.push_back(c10::multiply_integers(shape.end() - space, shape.end()));
    return [shape, flat, index = call.saved(node.result1_).flatten(-space)](Cotangents& taken, Cotangents& given) {
      if (!taken[0].defined()) {
        return;
      }
      const at::Tensor grad = taken[0].flatten(-space);
      given[0] = at::zeros(Call::batch_of(grad, flat), grad.options())
                     .scatter_add_(-1, index.expand_as(grad), grad)
                     .view(Call::batch_of(grad, shape));
    };
  });
}

template <typename T>
auto average_of(const T& node) {
  return std::make_tuple(
      node.kernel_size, node.stride, node.padding, node.ceil_mode, node.count_include_pad, node.divisor_override);
}

void add_poolings(RuleTable& table) {
  using at::Tensor;
  add_image<AvgPool2DBackward0, 2>(table, [](const auto& node) {
    return [arguments = average_of(node)](const Tensor& grad, const Tensor& input) {
      return std::apply([&](const auto&... of) { return at::avg_pool2d_backward(grad, input, of...); }, arguments);
    };
  });
  add_image<AvgPool3DBackward0, 3>(table, [](const auto& node) {
    return [arguments = average_of(node)](const Tensor& grad, const Tensor& input) {
      return std::apply([&](const auto&... of) { return at::avg_pool3d_backward(grad, input, of...); }, arguments);
    };
  });
  add_image<AdaptiveAvgPool2DBackward0, 2>(
      table, [](const auto& /*node*/) { return at::_adaptive_avg_pool2d_backward; });
  add_image<AdaptiveAvgPool3DBackward0, 3>(
      table, [](const auto& /*node*/) { return at::_adaptive_avg_pool3d_backward; });
  add_max_pooling<MaxPool2DWithIndicesBackward0, 2>(table);
  add_max_pooling<MaxPool3DWithIndicesBackward0, 3>(table);
  add_max_pooling<AdaptiveMaxPool2DBackward0, 2>(table);
  add_max_pooling<AdaptiveMaxPool3DBackward0, 3>(table);
  add_max_pooling<FractionalMaxPool2DBackward0, 2>(table);
  add_max_pooling<FractionalMaxPool3DBackward0, 3>(table);
}

// Of padding by what is in the image.
template <typename T, int64_t space>
void add_padding(RuleTable& table, at::Tensor (*backward)(const at::Tensor&, const at::Tensor&, at::IntArrayRef)) {
  add_image<T, space>(table, [backward](const T& node) {
    return [backward, padding = to_ints(node.padding)](const at::Tensor& grad, const at::Tensor& input) {
      return backward(grad, input, padding);
    };
  });
}

void add_paddings(RuleTable& table) {
  add_padding<ReflectionPad1DBackward0, 1>(table, at::reflection_pad1d_backward);
  add_padding<ReflectionPad2DBackward0, 2>(table, at::reflection_pad2d_backward);
  add_padding<ReflectionPad3DBackward0, 3>(table, at::reflection_pad3d_backward);
  add_padding<ReplicationPad1DBackward0, 1>(table, at::replication_pad1d_backward);
  add_padding<ReplicationPad2DBackward0, 2>(table, at::replication_pad2d_backward);
  add_padding<ReplicationPad3DBackward0, 3>(table, at::replication_pad3d_backward);
}

// Images as patches, patches as images, and channels as pixels.
void add_rearrangements(RuleTable& table) {
  add_unary<Im2ColBackward0>(table, [](const Call& call, const Im2ColBackward0& node) {
    const Shape shape = *call.given[0];
    return [shape,
            size = Shape(shape.end() - 2, shape.end()),
            kernel = node.kernel_size,
            dilation = node.dilation,
            padding = node.padding,
            stride = node.stride](const at::Tensor& grad) {
      return at::col2im(grad.flatten(0, -3), size, kernel, dilation, padding, stride)
          .reshape(Call::batch_of(grad, shape));
    };
  });
  add_unary<Col2ImBackward0>(table, [](const Call& call, const Col2ImBackward0& node) {
    return [shape = *call.given[0],
            kernel = node.kernel_size,
            dilation = node.dilation,
            padding = node.padding,
            stride = node.stride](const at::Tensor& grad) {
      return at::im2col(grad.flatten(0, -4), kernel, dilation, padding, stride).reshape(Call::batch_of(grad, shape));
    };
  });
  add_unary<AffineGridGeneratorBackward0>(table, [](const Call& call, const AffineGridGeneratorBackward0& node) {
    return [shape = *call.given[0], size = to_ints(node.size), align = node.align_corners](const at::Tensor& grad) {
      Shape of_all = size;
      of_all[0] *= grad.size(0);
      return at::affine_grid_generator_backward(grad.flatten(0, 1), of_all, align).view(Call::batch_of(grad, shape));
    };
  });
  add_unary<PixelShuffleBackward0>(table, [](const Call& /*call*/, const PixelShuffleBackward0& node) {
    return [factor = node.upscale_factor](const at::Tensor& grad) { return at::pixel_unshuffle(grad, factor); };
  });
  add_unary<PixelUnshuffleBackward0>(table, [](const Call& /*call*/, const PixelUnshuffleBackward0& node) {
    return [factor = node.downscale_factor](const at::Tensor& grad) { return at::pixel_shuffle(grad, factor); };
  });
}

// Of pictures that are sampled at places: `backward` is the Node's own operator. By the places, the batch becomes more
// of them, along their first direction; by the pictures it becomes more pictures.
template <typename T, typename Backward>
void add_sampler(RuleTable& table, Backward backward) {
  add_rule<T>(table, [backward](const Call& call, const T& node) -> BatchedVjp {
    const auto run =
        [backward, mode = node.interpolation_mode, padding = node.padding_mode, align = node.align_corners](
            const at::Tensor& grad, const at::Tensor& pictures, const at::Tensor& places, bool by_places) {
          const auto both =
              backward(grad, pictures, places, mode, padding, align, std::array<bool, 2>{!by_places, by_places});
          return by_places ? std::get<1>(both) : std::get<0>(both);
        };
    return [run,
            pictures = call.saved(node.input_),
            places = call.saved(node.grid_),
            wants_pictures = call.wants(0),
            wants_places = call.wants(1)](Cotangents& taken, Cotangents& given) {
      const at::Tensor& grad = taken[0];
      const int64_t rows = grad.size(0);
      // As often as there are rows, along a new dimension before `dim`, which is joined with it.
      const auto repeated = [rows](const at::Tensor& tensor, int64_t dim) {
        Shape sizes = tensor.sizes().vec();
        sizes.insert(sizes.begin() + dim, rows);
        return tensor.unsqueeze(dim).expand(sizes).flatten(dim, dim + 1);
      };
      if (wants_pictures) {
        given[0] = run(grad.flatten(0, 1), repeated(pictures, 0), repeated(places, 0), /*by_places=*/false)
                       .unflatten(0, {rows, pictures.size(0)});
      }
      if (wants_places) {
        given[1] = run(grad.movedim(0, 2).flatten(2, 3), pictures, repeated(places, 1), /*by_places=*/true)
                       .unflatten(1, {rows, places.size(1)})
                       .movedim(1, 0);
      }
    };
  });
}

void add_samplers(RuleTable& table) {
  add_sampler<GridSampler2DBackward0>(
      table, [](auto&&... arguments) { return at::grid_sampler_2d_backward(arguments...); });
  add_sampler<GridSampler3DBackward0>(
      table, [](auto&&... arguments) { return at::grid_sampler_3d_backward(arguments...); });
}

} // namespace

void add_image_rules(RuleTable& table) {
  add_interpolations(table);
  add_poolings(table);
  add_paddings(table);
  add_rearrangements(table);
  add_samplers(table);
}

} // namespace highgrad::vjp
