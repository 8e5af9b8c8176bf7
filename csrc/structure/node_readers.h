#pragma once

#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "structure/node_rows.h"
#include "tape/plain_tensor.h"

// Part of node_rows.cpp: how each Node's attributes are read. Apart from it for its length; the header with all Nodes
// takes long to compile, so nobody else includes this.
namespace highgrad::structure {
namespace {

using torch::autograd::Node;
namespace generated = torch::autograd::generated;

template <typename T, typename Value>
Value& member(Node& node, Value T::* pointer) {
  return static_cast<T&>(node).*pointer;
}

template <auto... others>
void read_others(Node& node, Reader& reader) {
  (reader.append(reader.attributes.others, member(node, others)), ...);
}

template <auto dims, auto... others>
void read_dims(Node& node, Reader& reader) {
  reader.append(reader.attributes.dims, member(node, dims));
  read_others<others...>(node, reader);
}

// The last `count` axes.
template <int64_t count, auto... others>
void read_last(Node& node, Reader& reader) {
  for (int64_t dim = -count; dim < 0; ++dim) {
    reader.attributes.dims.push_back(dim);
  }
  read_others<others...>(node, reader);
}

// None where there are user hooks, which are not called for it.
std::optional<at::Tensor> saved_tensor(const torch::autograd::SavedVariable& saved, Node& node) {
  if (saved.has_hooks()) {
    return std::nullopt;
  }
  try {
    return saved.unpack(node.getptr());
  } catch (const c10::Error&) {
    return std::nullopt; // freed, or changed in place: the sweep will say so
  }
}

// Indices or a mask. Others than plain tensors have no elements to read.
void read_index(const torch::autograd::SavedVariable& saved, Node& node, Reader& reader) {
  const std::optional<at::Tensor> index = saved_tensor(saved, node);
  const bool is_plain = index.has_value() &&
      (!index->defined() || (index->layout() == at::kStrided && !index->is_meta() && tape::is_plain(*index)));
  reader.attributes.has_places &= is_plain;
  reader.attributes.indices.push_back(is_plain ? *index : at::Tensor());
}

template <auto index, auto... others>
void read_indexed(Node& node, Reader& reader) {
  read_index(member(node, index), node, reader);
  read_others<others...>(node, reader);
}

template <auto dim, auto index>
void read_indexed_along(Node& node, Reader& reader) {
  read_dims<dim>(node, reader);
  read_index(member(node, index), node, reader);
}

// Whether a Node that writes adds, where it can. By overloads, since torch 2.11 is built as C++17.
template <typename Indexed>
auto read_accumulate(const Indexed& indexed, Reader& reader, int /*preferred*/) -> decltype(void(indexed.accumulate)) {
  reader.attributes.others.push_back(indexed.accumulate);
}

template <typename Indexed>
void read_accumulate(const Indexed& /*indexed*/, Reader& /*reader*/, long /*otherwise*/) {}

// One an axis; for those that write, whether they add.
template <typename Indexed>
void read_indices(Node& node, Reader& reader) {
  auto& indexed = static_cast<Indexed&>(node);
  read_accumulate(indexed, reader, 0);
  for (const auto& index : indexed.indices_) {
    read_index(index, node, reader);
    reader.attributes.others.push_back(reader.attributes.indices.back().defined());
  }
  reader.attributes.has_places &= !indexed.indices_.empty();
}

// Likewise, and the axes that they take: one, or as many as a mask has. No axes if some take none.
template <typename Indexed>
void read_indexed_axes(Node& node, Reader& reader) {
  read_indices<Indexed>(node, reader);
  NodeAttributes& attributes = reader.attributes;
  std::vector<int64_t> axes;
  int64_t axis = 0;
  for (const at::Tensor& index : attributes.indices) {
    const bool is_mask = index.defined() && (index.scalar_type() == at::kBool || index.scalar_type() == at::kByte);
    const int64_t next = axis + (is_mask ? index.dim() : 1);
    if (!attributes.has_places || next == axis) {
      return;
    }
    for (; index.defined() && axis < next; ++axis) {
      axes.push_back(axis);
    }
    axis = next;
  }
  attributes.dims = std::move(axes);
}

// In's position is out's, less so many.
Slide shifted_by(int64_t count) {
  return {Slide::Kind::kOver, 1, 1, count};
}

int64_t size_of(Reader& reader, const std::vector<c10::SymInt>& sizes, int64_t dim) {
  const auto rank = static_cast<int64_t>(sizes.size());
  return reader.number(sizes.at(dim < 0 ? dim + rank : dim));
}

template <typename Transpose>
void read_both_dims(Node& node, Reader& reader) {
  auto& transposed = static_cast<Transpose&>(node);
  reader.attributes.dims = {transposed.dim0, transposed.dim1};
}

// As many last axes as were padded, with two figures for each, those of the last axis first.
void read_padding(Node& node, Reader& reader) {
  read_others<&generated::ConstantPadNdBackward0::pad>(node, reader);
  const std::vector<int64_t>& pad = reader.attributes.others;
  for (auto dim = -static_cast<int64_t>(pad.size()) / 2; dim < 0; ++dim) {
    reader.attributes.dims.push_back(dim);
    reader.attributes.slides.push_back(shifted_by(pad[2 * (-dim - 1)]));
  }
}

template <typename Slice>
void read_slice(Node& node, Reader& reader) {
  read_dims<&Slice::dim, &Slice::start, &Slice::end, &Slice::step>(node, reader);
  const auto& slice = static_cast<Slice&>(node);
  const int64_t size = size_of(reader, slice.self_sym_sizes, slice.dim);
  int64_t start = slice.start.has_value() ? reader.number(*slice.start) : 0;
  start = std::clamp<int64_t>(start < 0 ? start + size : start, 0, size);
  reader.attributes.slides = {shifted_by(-start)};
  reader.attributes.slides[0].stride = reader.number(slice.step);
}

// Of the operator that puts a slice into zeros: the figures as of the slice, which need not give the first two.
void read_slice_backward(Node& node, Reader& reader) {
  using generated::SliceBackwardBackward0;
  read_dims<&SliceBackwardBackward0::dim>(node, reader);
  const auto& slice = static_cast<SliceBackwardBackward0&>(node);
  reader.append(reader.attributes.others, std::optional(slice.start));
  reader.append(reader.attributes.others, std::optional(slice.end));
  reader.append(reader.attributes.others, slice.step);
}

void read_cat(Node& node, Reader& reader) {
  read_dims<&generated::CatBackward0::dim>(node, reader);
  const auto& cat = static_cast<generated::CatBackward0&>(node);
  int64_t start = 0;
  for (const auto& sizes : cat.tensors_args_sizes_symint) {
    reader.attributes.slides.push_back(shifted_by(start));
    // Tensors of one axis without elements may come with any others.
    start += sizes.size() == 1 && reader.number(sizes[0]) == 0 ? 0 : size_of(reader, sizes, cat.dim);
  }
}

template <typename Split>
void read_split(Node& node, Reader& reader) {
  read_dims<&Split::dim, &Split::split_size>(node, reader);
  for (int64_t part = 0; part < node.num_inputs(); ++part) {
    reader.attributes.slides.push_back(shifted_by(-part * reader.number(static_cast<Split&>(node).split_size)));
  }
}

template <typename Split>
void read_split_with_sizes(Node& node, Reader& reader) {
  read_dims<&Split::dim, &Split::split_sizes>(node, reader);
  int64_t start = 0;
  for (const c10::SymInt& size : static_cast<Split&>(node).split_sizes) {
    reader.attributes.slides.push_back(shifted_by(-start));
    start += reader.number(size);
  }
}

void read_roll(Node& node, Reader& reader) {
  read_dims<&generated::RollBackward0::dims, &generated::RollBackward0::shifts>(node, reader);
  for (const int64_t shift : reader.attributes.others) {
    reader.attributes.slides.push_back({Slide::Kind::kTurn, 1, 1, shift});
  }
}

template <typename Unfold>
void read_unfold(Node& node, Reader& reader) {
  read_dims<&Unfold::dimension, &Unfold::size, &Unfold::step>(node, reader);
  const auto& unfold = static_cast<Unfold&>(node);
  reader.attributes.slides = {{Slide::Kind::kOver, unfold.size, unfold.step}};
}

void read_flip(Node& node, Reader& reader) {
  read_dims<&generated::FlipBackward0::dims>(node, reader);
  reader.attributes.slides.assign(reader.attributes.dims.size(), {Slide::Kind::kFlip});
}

// Of `count` axes, one figure each or one for all; `otherwise` without any.
std::vector<int64_t> one_each(
    const std::vector<int64_t>& figures,
    size_t count,
    const std::vector<int64_t>& otherwise) {
  return figures.empty() ? otherwise : figures.size() == 1 ? std::vector<int64_t>(count, figures[0]) : figures;
}

// The steps inside of a window, none where a Node has no such member. By overloads, since torch 2.11 is built as C++17.
template <typename Pool>
auto dilation_of(const Pool& pool, int /*preferred*/) -> decltype(std::vector<int64_t>(pool.dilation)) {
  return pool.dilation;
}

template <typename Pool>
std::vector<int64_t> dilation_of(const Pool& /*pool*/, long /*otherwise*/) {
  return {};
}

template <int64_t count, typename Pool>
void read_pool(Node& node, Reader& reader) {
  read_last<count, &Pool::kernel_size, &Pool::stride, &Pool::padding>(node, reader);
  const auto& pool = static_cast<Pool&>(node);
  const auto kernel = one_each(pool.kernel_size, count, {});
  const auto stride = one_each(pool.stride, count, kernel);
  const auto padding = one_each(pool.padding, count, {});
  const auto dilation = one_each(dilation_of(pool, 0), count, std::vector<int64_t>(count, 1));
  for (int64_t axis = 0; axis < count; ++axis) {
    reader.attributes.slides.push_back({Slide::Kind::kOver, kernel[axis], stride[axis], padding[axis], dilation[axis]});
  }
}

// The last axes, of which each element of out has an equal part.
template <int64_t count, typename Pool>
void read_adaptive_pool(Node& node, Reader& reader) {
  read_last<count>(node, reader);
  const std::optional<at::Tensor> input = saved_tensor(static_cast<Pool&>(node).self_, node);
  for (int64_t axis = -count; input.has_value() && input->dim() >= count && axis < 0; ++axis) {
    reader.attributes.slides.push_back({Slide::Kind::kShare, input->size(axis)});
  }
}

// Along one axis, from its first position on.
template <auto dim>
void read_scan(Node& node, Reader& reader) {
  read_dims<dim>(node, reader);
  reader.attributes.slides = {{Slide::Kind::kUpTo}};
}

// By how many times an axis grew where that is a whole number, which no scale contradicts, or 0.
int64_t whole_factor(int64_t in, int64_t out, const std::optional<double>& scale) {
  const int64_t factor = in > 0 ? out / in : 0;
  const bool is_whole = factor > 0 && factor * in == out;
  // A scale that is not positive is not used.
  const bool is_said = !scale.has_value() || *scale <= 0 || *scale == static_cast<double>(factor);
  return is_whole && is_said ? factor : 0;
}

// Whether no scale contradicts the sizes.
bool is_ratio(int64_t in, int64_t out, const std::optional<double>& scale) {
  return !scale.has_value() || *scale <= 0 || *scale * static_cast<double>(in) == static_cast<double>(out);
}

// Where an element of in is one of so many taps of an element of out, an axis of which is `factor` times as long:
// position p of out lies at (p + 1/2) / factor - 1/2 in in. Taps of weight zero count, and, unless the quotients are
// exact, a position more on both sides.
Slide resampled(int64_t factor, int64_t taps, int64_t out) {
  constexpr int64_t kExact = int64_t{1} << 20;
  const int64_t margin = (factor & (factor - 1)) == 0 && out < kExact ? 0 : 1;
  int64_t before = 0;
  int64_t after = factor - 1;
  if (taps == 2) {
    before = factor; // positions before the first are taken to it, and have the second with weight zero
    after = (3 * factor - 1) / 2;
  }
  return {Slide::Kind::kUnder, before + after + 1 + 2 * margin, factor, before + margin};
}

// Of sizes without a whole factor, or where corners are aligned: to the nearest of in's positions, or those that one
// lies between. A position more on both sides, for what is rounded.
Slide resampled_between(int64_t in, int64_t out, int64_t taps, bool aligns_corners, bool from_centres) {
  if (aligns_corners) {
    return {Slide::Kind::kNear, taps, out > 1 ? in - 1 : 0, 0, std::max<int64_t>(out - 1, 1)};
  }
  return from_centres ? Slide{Slide::Kind::kNear, taps, 2 * in, taps > 1 ? in - out : in, 2 * out}
                      : Slide{Slide::Kind::kNear, taps, in, 0, out};
}

template <int64_t count, typename Upsample>
std::array<std::optional<double>, count> scales_of(const Upsample& upsample) {
  if constexpr (count == 1) {
    return {upsample.scales};
  } else if constexpr (count == 2) {
    return {upsample.scales_h, upsample.scales_w};
  } else {
    return {upsample.scales_d, upsample.scales_h, upsample.scales_w};
  }
}

// The last axes, of whose elements so many make one of out, along each; whether positions are those of centres.
template <int64_t taps, int64_t count, typename Upsample, bool from_centres = true>
void read_upsampled(Node& node, Reader& reader) {
  read_last<count>(node, reader);
  const auto& upsample = static_cast<Upsample&>(node);
  bool aligns_corners = false;
  if constexpr (taps > 1) {
    aligns_corners = upsample.align_corners;
  }
  const auto scales = scales_of<count>(upsample);
  if (upsample.self_sym_sizes.size() != count + 2 || upsample.output_size.size() != count) {
    return;
  }
  std::vector<Slide> slides;
  for (size_t axis = 0; axis < count; ++axis) {
    const int64_t in = reader.number(upsample.self_sym_sizes[axis + 2]);
    const int64_t out = reader.number(upsample.output_size[axis]);
    const int64_t factor = whole_factor(in, out, scales[axis]);
    if (in == 0 || (factor == 0 && !aligns_corners && !is_ratio(in, out, scales[axis]))) {
      return;
    }
    slides.push_back(
        factor > 0 && !aligns_corners ? resampled(factor, taps, out)
                                      : resampled_between(in, out, taps, aligns_corners, from_centres));
  }
  reader.attributes.slides = std::move(slides);
}

template <typename Patches>
void read_patches(Node& node, Reader& reader) {
  read_others<&Patches::kernel_size, &Patches::dilation, &Patches::padding, &Patches::stride>(node, reader);
}

// As many last axes as were normalized over.
template <typename Norm>
void read_normalized(Node& node, Reader& reader) {
  read_others<&Norm::normalized_shape>(node, reader);
  for (auto dim = -static_cast<int64_t>(reader.attributes.others.size()); dim < 0; ++dim) {
    reader.attributes.dims.push_back(dim);
  }
}

// All axes but that of channels are mixed in training, and none in evaluation.
template <typename Norm>
void read_batch_norm(Node& node, Reader& reader) {
  read_others<&Norm::training>(node, reader);
  const auto& norm = static_cast<Norm&>(node);
  if (!norm.training) {
    return;
  }
  const std::optional<at::Tensor> input = saved_tensor(norm.input_, node);
  reader.is_known &= input.has_value();
  for (int64_t axis = 0; input.has_value() && axis < input->dim(); ++axis) {
    if (axis != 1) {
      reader.attributes.dims.push_back(axis);
    }
  }
}

// The axis of samples of a recurrent layer, or none where sequences of several lengths are packed.
void read_sequence(Node& node, Reader& reader) {
  const auto& layer = static_cast<generated::CudnnRnnBackward0&>(node);
  if (layer.batch_sizes.empty()) {
    reader.attributes.others = {layer.batch_first ? 0 : 1};
  }
}

// Likewise; steps come first.
void read_steps(Node& node, Reader& reader) {
  if (static_cast<generated::MkldnnRnnLayerBackward0&>(node).batch_sizes.empty()) {
    reader.attributes.others = {1};
  }
}

// Out's last axis runs along both; the others keep their order.
template <typename Diagonal>
void read_diagonal(Node& node, Reader& reader) {
  read_others<&Diagonal::dim1, &Diagonal::dim2, &Diagonal::offset>(node, reader);
  const auto& diagonal = static_cast<Diagonal&>(node);
  reader.attributes.dims = {diagonal.dim1, diagonal.dim2};
}

// Whether axis 0 of what is embedded stays the first.
bool embeds_last(Node& node) {
  const auto& embed = static_cast<generated::DiagEmbedBackward0&>(node);
  return embed.dim1 == -2 && embed.dim2 == -1;
}

// In number `in` has right-hand sides in the last axis, or in that before it.
template <int64_t in>
void read_columns(Node&, Reader& reader) {
  reader.attributes.others = {in, 1};
}

template <typename Solver>
void read_sides(Node& node, Reader& reader) {
  reader.attributes.others = {1, static_cast<Solver&>(node).left ? 1 : 2};
}

// Likewise, if they, or the solution, have as many axes as the matrices; a vector has one less.
template <auto matrices, auto sides, void (*read)(Node&, Reader&)>
void read_right_hand_side(Node& node, Reader& reader) {
  const std::optional<at::Tensor> a = saved_tensor(member(node, matrices), node);
  const std::optional<at::Tensor> b = saved_tensor(member(node, sides), node);
  const bool are_known = a.has_value() && b.has_value() && a->defined() && b->defined();
  reader.attributes.is_vector = are_known && b->dim() + 1 == a->dim();
  if (are_known && b->dim() == a->dim()) {
    read(node, reader);
  }
}

// The scalar factors of reflections besides the vectors.
void read_reflections(Node&, Reader& reader) {
  reader.attributes.is_vector = true;
}

// Losses of samples, of which axis 1 counts classes, or their sum or mean.
template <typename Loss>
void read_nll_loss(Node& node, Reader& reader) {
  read_others<&Loss::reduction>(node, reader);
  if (static_cast<Loss&>(node).reduction == 0) {
    reader.attributes.dims = {1};
  }
}

// A loss for each position of axis 1, behind that of time and before that of classes.
void read_ctc_loss(Node&, Reader& reader) {
  reader.attributes.dims = {0, 2};
}

template <typename Convolution>
void read_any_convolution(Node& node, Reader& reader) {
  read_others<
      &Convolution::stride,
      &Convolution::padding,
      &Convolution::dilation,
      &Convolution::output_padding,
      &Convolution::transposed,
      &Convolution::groups>(node, reader);
}

void read_convolution(Node& node, Reader& reader) {
  read_any_convolution<generated::ConvolutionBackward0>(node, reader);
  const auto& convolution = static_cast<generated::ConvolutionBackward0&>(node);
  const std::optional<at::Tensor> weight = saved_tensor(convolution.weight_, node);
  if (!weight.has_value() || !weight->defined()) {
    return;
  }
  // One figure may stand for all axes.
  const auto figure = [&](const auto& figures, size_t axis) {
    return reader.number(figures.at(figures.size() == 1 ? 0 : axis));
  };
  for (size_t axis = 0; axis + 2 < static_cast<size_t>(weight->dim()); ++axis) {
    reader.attributes.slides.push_back(
        {convolution.transposed ? Slide::Kind::kUnder : Slide::Kind::kOver,
         weight->size(static_cast<int64_t>(axis) + 2),
         figure(convolution.stride, axis),
         figure(convolution.padding, axis),
         figure(convolution.dilation, axis)});
  }
  reader.attributes.groups = reader.number(convolution.groups);
}

void read_exponent(Node& node, Reader& reader) {
  reader.attributes.others = {static_cast<generated::PowBackward0&>(node).exponent.equal(0)};
}

void read_strided(Node& node, Reader& reader) {
  const auto& strided = static_cast<generated::AsStridedBackward0&>(node);
  std::vector<int64_t>& others = reader.attributes.others;
  reader.append(others, strided.self_geometry);
  others.push_back(static_cast<int64_t>(strided.size.size()));
  reader.append(others, strided.size);
  reader.append(others, strided.stride);
  reader.append(others, strided.storage_offset.value_or(strided.self_geometry.sym_storage_offset()));
}

// What a sparse factor leaves out, the product does not have, and it may leave out other entries on another tape.
template <typename Product>
bool are_both_strided(Node& node);

// A factor is saved only where the product by the other one is computed.
bool is_strided(const torch::autograd::SavedVariable& saved, Node& node) {
  const std::optional<at::Tensor> factor = saved_tensor(saved, node);
  return factor.has_value() && (!factor->defined() || factor->layout() == at::kStrided);
}

// A sparse factor, by the rows of operand number `operand` that it takes and the rows of out that it puts them into.
template <auto factor, int64_t operand>
void read_sparse_rows(Node& node, Reader& reader) {
  NodeAttributes& attributes = reader.attributes;
  const std::optional<at::Tensor> matrix = saved_tensor(member(node, factor), node);
  const bool has_rows = matrix.has_value() && matrix->defined() && matrix->dim() == 2 &&
      (matrix->layout() == at::kSparse || matrix->layout() == at::kSparseCsr) && tape::is_plain(*matrix);
  attributes.has_places = has_rows && (matrix->layout() != at::kSparse || matrix->dense_dim() == 0);
  if (!attributes.has_places) {
    return;
  }
  const bool is_compressed = matrix->layout() == at::kSparseCsr;
  attributes.others = {operand, is_compressed};
  attributes.indices = is_compressed ? std::vector<at::Tensor>{matrix->col_indices(), matrix->crow_indices()}
                                     : std::vector<at::Tensor>{matrix->_indices()[1], matrix->_indices()[0]};
}

// The rows of each bag, which lie next to one another.
void read_bags(Node& node, Reader& reader) {
  const auto& bags = static_cast<generated::EmbeddingBagBackward0&>(node);
  reader.attributes.dims = {0};
  reader.attributes.others = {0, 1};
  read_index(bags.indices_, node, reader);
  read_index(bags.offsets_, node, reader);
}

// Along the first axis alone.
void read_segments(Node& node, Reader& reader) {
  const auto& reduced = static_cast<generated::SegmentReduceBackward0&>(node);
  reader.attributes.dims = {reduced.axis};
  read_index(reduced.lengths_, node, reader);
  read_index(reduced.offsets_, node, reader);
  std::vector<at::Tensor>& figures = reader.attributes.indices;
  const bool are_offsets = !figures[0].defined();
  figures = {figures[are_offsets ? 1 : 0]};
  reader.attributes.others = {0, are_offsets};
  reader.attributes.has_places &= reduced.axis == 0 && figures[0].defined();
}

// Those of the first operand.
void read_pairs(Node& /*node*/, Reader& reader) {
  reader.attributes.others = {0};
}

void read_blocks(Node& node, Reader& reader) {
  for (const auto& sizes : static_cast<generated::BlockDiagBackward0&>(node).tensors_args_sizes) {
    // Such a vector has a row in the result, of which torch's backward does not know.
    reader.attributes.has_places &= sizes.size() != 1 || sizes[0] != 0;
    // Numbers and vectors are matrices of one row.
    reader.attributes.others.push_back(sizes.size() > 1 ? sizes[0] : 1);
    reader.attributes.others.push_back(sizes.empty() ? 1 : sizes.back());
  }
}

template <>
bool are_both_strided<generated::MmBackward0>(Node& node) {
  auto& product = static_cast<generated::MmBackward0&>(node);
  return product.self_layout == at::kStrided && product.mat2_layout == at::kStrided;
}

template <>
bool are_both_strided<generated::AddmmBackward0>(Node& node) {
  auto& product = static_cast<generated::AddmmBackward0&>(node);
  return product.mat1_layout == at::kStrided && product.mat2_layout == at::kStrided;
}

template <>
bool are_both_strided<generated::MvBackward0>(Node& node) {
  auto& product = static_cast<generated::MvBackward0&>(node);
  return is_strided(product.self_, node) && is_strided(product.vec_, node);
}

template <>
bool are_both_strided<generated::AddmvBackward0>(Node& node) {
  auto& product = static_cast<generated::AddmvBackward0&>(node);
  return is_strided(product.mat_, node) && is_strided(product.vec_, node);
}

template <>
bool are_both_strided<generated::BmmBackward0>(Node& node) {
  auto& product = static_cast<generated::BmmBackward0&>(node);
  return is_strided(product.self_, node) && is_strided(product.mat2_, node);
}

template <>
bool are_both_strided<generated::BaddbmmBackward0>(Node& node) {
  auto& product = static_cast<generated::BaddbmmBackward0&>(node);
  return is_strided(product.batch1_, node) && is_strided(product.batch2_, node);
}

} // namespace
} // namespace highgrad::structure
