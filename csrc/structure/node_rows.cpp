#include "structure/node_rows.h"

#include <torch/csrc/autograd/generated/Functions.h>

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

void read_both_dims(Node& node, Reader& reader) {
  auto& transposed = static_cast<generated::TransposeBackward0&>(node);
  reader.attributes.dims = {transposed.dim0, transposed.dim1};
}

// As many last axes as were padded, with two figures for each.
void read_padding(Node& node, Reader& reader) {
  read_others<&generated::ConstantPadNdBackward0::pad>(node, reader);
  for (auto dim = -static_cast<int64_t>(reader.attributes.others.size()) / 2; dim < 0; ++dim) {
    reader.attributes.dims.push_back(dim);
  }
}

// As many last axes as were normalized over.
void read_normalized(Node& node, Reader& reader) {
  read_others<&generated::NativeLayerNormBackward0::normalized_shape>(node, reader);
  for (auto dim = -static_cast<int64_t>(reader.attributes.others.size()); dim < 0; ++dim) {
    reader.attributes.dims.push_back(dim);
  }
}

template <typename Convolution>
void read_convolution(Node& node, Reader& reader) {
  read_others<
      &Convolution::stride,
      &Convolution::padding,
      &Convolution::dilation,
      &Convolution::output_padding,
      &Convolution::transposed,
      &Convolution::groups>(node, reader);
}

void read_exponent(Node& node, Reader& reader) {
  reader.attributes.others = {static_cast<generated::PowBackward0&>(node).exponent.equal(0)};
}

void read_strided(Node& node, Reader& reader) {
  const auto& strided = static_cast<generated::AsStridedBackward0&>(node);
  reader.append(reader.attributes.others, strided.self_geometry);
  read_others<
      &generated::AsStridedBackward0::size,
      &generated::AsStridedBackward0::stride,
      &generated::AsStridedBackward0::storage_offset>(node, reader);
}

// What a sparse factor leaves out, the product does not have, and it may leave out other entries on another tape.
template <typename Product>
bool are_both_strided(Node& node);

// A factor is saved only where the product by the other one is computed. User hooks are not called for it.
bool is_strided(const torch::autograd::SavedVariable& saved, Node& node) {
  if (saved.has_hooks()) {
    return false;
  }
  try {
    const at::Tensor factor = saved.unpack(node.getptr());
    return !factor.defined() || factor.layout() == at::kStrided;
  } catch (const c10::Error&) {
    return false; // freed, or changed in place: the sweep will say so
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

constexpr NodeFacts kSmooth{Flow::kPointwise, /*is_global=*/true, /*is_full=*/true};
constexpr NodeFacts kMasked{Flow::kPointwise, false, true};
constexpr NodeFacts kChosen{Flow::kPointwise, false, false};
constexpr NodeFacts kView{Flow::kFlat, true, true};
constexpr NodeFacts kReduction{Flow::kReduce, true, true};
constexpr NodeFacts kSelection{Flow::kReduce, false, false};
constexpr NodeFacts kMixing{Flow::kMix, true, true};
constexpr NodeFacts kMoving{Flow::kMix, true, false};
constexpr NodeFacts kSorting{Flow::kMix, false, false};
constexpr NodeFacts kResizing{Flow::kResize, true, false};
constexpr NodeFacts kLookup{Flow::kResize, false, false};
constexpr NodeFacts kProduct{Flow::kMatrixProduct, true, true};
constexpr NodeFacts kAnyGlobal{Flow::kOther, true, false};
constexpr NodeFacts kAnyLocal{Flow::kOther, false, false};

// Note [Patterns by NaN]
// Backward is linear in the cotangent, and NaN survives every product and sum: with NaN in some rows of a cotangent,
// NaN arrives at every element that these rows can reach. That holds of a Node whose backward does not look at its
// cotangent, which nothing but its source can tell. These rows have been read, and compared with dense Jacobians over
// torch's database of operators (tests/test_node_table.py). What may remove a NaN is a selection by what was recorded
// (a mask, an index): an exact zero at this point, perhaps not at another, hence `is_global`. Left out on purpose:
// logcumsumexp, which takes logarithms of its cotangent; whatever vmap gets wrong; decompositions and solvers.
constexpr Row kRows[] = {
    // One element each, smooth: every element of the cotangent is multiplied by some number.
    {"AbsBackward0", kSmooth},
    {"AcosBackward0", kSmooth},
    {"AcoshBackward0", kSmooth},
    {"AddBackward0", kSmooth},
    {"AddBackward1", kSmooth},
    {"AddcdivBackward0", kSmooth},
    {"AddcmulBackward0", kSmooth},
    {"AliasBackward0", kSmooth},
    {"AsinBackward0", kSmooth},
    {"AsinhBackward0", kSmooth},
    {"AtanBackward0", kSmooth},
    {"AtanhBackward0", kSmooth},
    {"CloneBackward0", kSmooth},
    {"CosBackward0", kSmooth},
    {"CoshBackward0", kSmooth},
    {"DigammaBackward0", kSmooth},
    {"DivBackward0", kSmooth},
    {"DivBackward1", kSmooth},
    {"EluBackward0", kSmooth},
    {"ErfBackward0", kSmooth},
    {"ErfcBackward0", kSmooth},
    {"ErfinvBackward0", kSmooth},
    {"Exp2Backward0", kSmooth},
    {"ExpBackward0", kSmooth},
    {"ExpandBackward0", kSmooth},
    {"Expm1Backward0", kSmooth},
    {"FmodBackward0", kSmooth},
    {"FracBackward0", kSmooth},
    {"GeluBackward0", kSmooth},
    {"LeakyReluBackward0", kSmooth},
    {"LerpBackward0", kSmooth},
    {"I0Backward0", kSmooth},
    {"LdexpBackward0", kSmooth},
    {"LgammaBackward0", kSmooth},
    {"Log10Backward0", kSmooth},
    {"Log1PBackward0", kSmooth},
    {"Log2Backward0", kSmooth},
    {"LogBackward0", kSmooth},
    {"LogSigmoidBackward0", kSmooth},
    {"MishBackward0", kSmooth},
    {"MulBackward0", kSmooth},
    {"MulBackward1", kSmooth},
    {"NegBackward0", kSmooth},
    {"PolygammaBackward0", kSmooth},
    {"PowBackward0", kSmooth, read_exponent},
    {"ReciprocalBackward0", kSmooth},
    {"RemainderBackward0", kSmooth},
    {"RsqrtBackward0", kSmooth},
    {"RsubBackward0", kSmooth},
    {"RsubBackward1", kSmooth},
    {"SigmoidBackward0", kSmooth},
    {"SiluBackward0", kSmooth},
    {"SinBackward0", kSmooth},
    {"SinhBackward0", kSmooth},
    {"SoftplusBackward0", kSmooth},
    {"SpecialEntrBackward0", kSmooth},
    {"SpecialErfcxBackward0", kSmooth},
    {"SpecialI1Backward0", kSmooth},
    {"SpecialLogNdtrBackward0", kSmooth},
    {"SpecialNdtriBackward0", kSmooth},
    {"SqrtBackward0", kSmooth},
    {"SubBackward0", kSmooth},
    {"SubBackward1", kSmooth},
    {"TanBackward0", kSmooth},
    {"TanhBackward0", kSmooth},
    {"ToCopyBackward0", kSmooth},
    // One element each, zero for some values.
    {"Atan2Backward0", kMasked},
    {"CeluBackward0", kMasked},
    {"ClampBackward0", kMasked},
    {"ClampBackward1", kMasked},
    {"ClampMaxBackward0", kMasked},
    {"ClampMaxBackward1", kMasked},
    {"ClampMinBackward0", kMasked},
    {"ClampMinBackward1", kMasked},
    {"CopysignBackward0", kMasked},
    {"HardsigmoidBackward0", kMasked},
    {"HardswishBackward0", kMasked},
    {"HardtanhBackward0", kMasked},
    {"HypotBackward0", kMasked},
    {"LerpBackward1", kMasked},
    {"Logaddexp2Backward0", kMasked},
    {"LogaddexpBackward0", kMasked},
    {"LogitBackward0", kMasked},
    {"PowBackward1", kMasked},
    {"PowBackward2", kMasked},
    {"PreluKernelBackward0", kMasked},
    {"ReluBackward0", kMasked},
    {"SincBackward0", kMasked},
    {"ThresholdBackward0", kMasked},
    {"SpecialXlog1PyBackward0", kMasked},
    {"XlogyBackward0", kMasked},
    {"CeilBackward0", kChosen},
    {"FloorBackward0", kChosen},
    {"FmaxBackward0", kChosen},
    {"FminBackward0", kChosen},
    {"FmodBackward1", kChosen},
    {"HardshrinkBackward0", kChosen},
    {"MaskedFillBackward0", kChosen},
    {"MaskedFillBackward1", kChosen},
    {"MaximumBackward0", kChosen},
    {"MinimumBackward0", kChosen},
    {"NanToNumBackward0", kChosen},
    {"RemainderBackward1", kChosen},
    {"RoundBackward0", kChosen},
    {"SgnBackward0", kChosen},
    {"SignBackward0", kChosen},
    {"SoftshrinkBackward0", kChosen},
    {"TruncBackward0", kChosen},
    {"WhereBackward0", kChosen},
    {"TrilBackward0", {Flow::kPointwise, true, false}, read_others<&generated::TrilBackward0::diagonal>},
    {"TriuBackward0", {Flow::kPointwise, true, false}, read_others<&generated::TriuBackward0::diagonal>},
    // Views and rearrangements.
    {"ReshapeAliasBackward0", kView},
    {"SqueezeBackward0", kView},
    {"SqueezeBackward1", kView},
    {"SqueezeBackward2", kView},
    {"SqueezeBackward4", kView},
    {"UnsafeViewBackward0", kView},
    {"UnsqueezeBackward0", kView},
    {"ViewBackward0", kView},
    {"PermuteBackward0", {Flow::kPermute, true, true}, read_dims<&generated::PermuteBackward0::dims>},
    {"TBackward0", {Flow::kSwap, true, true}, read_last<2>},
    {"TransposeBackward0", {Flow::kSwap, true, true}, read_both_dims},
    {"FlipBackward0", kMoving, read_dims<&generated::FlipBackward0::dims>},
    {"RollBackward0", kMoving, read_dims<&generated::RollBackward0::dims, &generated::RollBackward0::shifts>},
    {"SliceBackward0",
     kResizing,
     read_dims<
         &generated::SliceBackward0::dim,
         &generated::SliceBackward0::start,
         &generated::SliceBackward0::end,
         &generated::SliceBackward0::step>},
    {"CatBackward0", kResizing, read_dims<&generated::CatBackward0::dim>},
    {"SplitBackward0", kResizing, read_dims<&generated::SplitBackward0::dim, &generated::SplitBackward0::split_size>},
    {"SplitWithSizesBackward0",
     kResizing,
     read_dims<&generated::SplitWithSizesBackward0::dim, &generated::SplitWithSizesBackward0::split_sizes>},
    {"UnsafeSplitWithSizesBackward0",
     kResizing,
     read_dims<&generated::UnsafeSplitWithSizesBackward0::dim, &generated::UnsafeSplitWithSizesBackward0::split_sizes>},
    {"UnsafeSplitBackward0",
     kResizing,
     read_dims<&generated::UnsafeSplitBackward0::dim, &generated::UnsafeSplitBackward0::split_size>},
    {"ConstantPadNdBackward0", kResizing, read_padding},
    {"SelectBackward0",
     {Flow::kTake, true, false},
     read_dims<&generated::SelectBackward0::dim, &generated::SelectBackward0::index>},
    {"UnbindBackward0", {Flow::kTake, true, false}, read_dims<&generated::UnbindBackward0::dim>},
    {"StackBackward0", {Flow::kInsert, true, false}, read_dims<&generated::StackBackward0::dim>},
    {"DiagonalBackward0",
     kAnyGlobal,
     read_others<
         &generated::DiagonalBackward0::dim1,
         &generated::DiagonalBackward0::dim2,
         &generated::DiagonalBackward0::offset>},
    {"DiagEmbedBackward0",
     kAnyGlobal,
     read_others<
         &generated::DiagEmbedBackward0::dim1,
         &generated::DiagEmbedBackward0::dim2,
         &generated::DiagEmbedBackward0::offset>},
    {"RepeatBackward0", kAnyGlobal, read_others<&generated::RepeatBackward0::repeats>},
    {"UnfoldBackward0",
     kAnyGlobal,
     read_others<
         &generated::UnfoldBackward0::dimension,
         &generated::UnfoldBackward0::size,
         &generated::UnfoldBackward0::step>},
    {"AsStridedBackward0", kAnyGlobal, read_strided},
    // Writing in place into a view, as `out[1:-1] = ...` does: the base's elements outside of the view are kept, those
    // inside go through the Node that it wraps, of which the facts are taken.
    {"CopySlices", kAnyLocal},
    {"CopyBackwards", {Flow::kPointwise, true, false}},
    {"ChannelShuffleBackward0", kAnyLocal},
    {"DiagonalScatterBackward0", kAnyLocal},
    {"PixelShuffleBackward0", kAnyLocal},
    {"PixelUnshuffleBackward0", kAnyLocal},
    {"Rot90Backward0", kAnyLocal},
    {"SelectScatterBackward0", kAnyLocal},
    {"SliceScatterBackward0", kAnyLocal},
    {"TraceBackward0", kAnyGlobal},
    // Reductions and scans.
    {"LogsumexpBackward0", kReduction, read_dims<&generated::LogsumexpBackward0::dim>},
    {"MeanBackward0", kReduction},
    {"MeanBackward1", kReduction, read_dims<&generated::MeanBackward1::dim>},
    {"SumBackward0", kReduction},
    {"SumBackward1", kReduction, read_dims<&generated::SumBackward1::dim>},
    {"VarBackward0", kReduction, read_dims<&generated::VarBackward0::dim>},
    {"VarMeanBackward0", kReduction, read_dims<&generated::VarMeanBackward0::dim>},
    {"LinalgVectorNormBackward0", {Flow::kReduce, false, true}, read_dims<&generated::LinalgVectorNormBackward0::dim>},
    {"NormBackward1", {Flow::kReduce, false, true}, read_dims<&generated::NormBackward1::dim>},
    {"ProdBackward1", {Flow::kReduce, false, true}, read_dims<&generated::ProdBackward1::dim>},
    {"StdBackward0", {Flow::kReduce, false, true}, read_dims<&generated::StdBackward0::dim>},
    {"StdMeanBackward0", {Flow::kReduce, false, true}, read_dims<&generated::StdMeanBackward0::dim>},
    {"AmaxBackward0", kSelection, read_dims<&generated::AmaxBackward0::dim>},
    {"AminBackward0", kSelection, read_dims<&generated::AminBackward0::dim>},
    {"KthvalueBackward0", kSelection, read_dims<&generated::KthvalueBackward0::dim>},
    {"MaxBackward0", kSelection, read_dims<&generated::MaxBackward0::dim>},
    {"MaxBackward1", kSelection},
    {"MedianBackward0", kSelection},
    {"MedianBackward1", kSelection, read_dims<&generated::MedianBackward1::dim>},
    {"MinBackward0", kSelection, read_dims<&generated::MinBackward0::dim>},
    {"MinBackward1", kSelection},
    {"LogSoftmaxBackward0", kMixing, read_dims<&generated::LogSoftmaxBackward0::dim>},
    {"SafeSoftmaxBackward0", kMixing, read_dims<&generated::SafeSoftmaxBackward0::dim>},
    {"SoftmaxBackward0", kMixing, read_dims<&generated::SoftmaxBackward0::dim>},
    {"CumsumBackward0", kMoving, read_dims<&generated::CumsumBackward0::dim>},
    {"CumprodBackward0", kSorting, read_dims<&generated::CumprodBackward0::dim>},
    {"CummaxBackward0", kSorting, read_dims<&generated::CummaxBackward0::dim>},
    {"CumminBackward0", kSorting, read_dims<&generated::CumminBackward0::dim>},
    {"SortBackward0", kSorting, read_dims<&generated::SortBackward0::dim>},
    {"SortBackward1", kSorting, read_dims<&generated::SortBackward1::dim>},
    // Products.
    {"AddbmmBackward0", kAnyGlobal},
    {"AddmmBackward0", kProduct, nullptr, are_both_strided<generated::AddmmBackward0>},
    {"AddmvBackward0", kProduct, nullptr, are_both_strided<generated::AddmvBackward0>},
    {"BaddbmmBackward0", kProduct, nullptr, are_both_strided<generated::BaddbmmBackward0>},
    {"BmmBackward0", kProduct, nullptr, are_both_strided<generated::BmmBackward0>},
    {"DotBackward0", kProduct},
    {"MmBackward0", kProduct, nullptr, are_both_strided<generated::MmBackward0>},
    {"MvBackward0", kProduct, nullptr, are_both_strided<generated::MvBackward0>},
    {"AddrBackward0", kAnyGlobal},
    {"LinalgCrossBackward0", kMoving, read_dims<&generated::LinalgCrossBackward0::dim>},
    {"SparseAddmmBackward0", kAnyLocal},
    {"ConvolutionBackward0", {Flow::kConvolution, true, false}, read_convolution<generated::ConvolutionBackward0>},
    // Of batches of small matrices. A triangular or LU solve hands NaN on to all that it computes from it.
    {"LinalgInvExBackward0", {Flow::kMatrices, false, false}},
    {"LinalgSolveExBackward0", {Flow::kMatrices, false, false}},
    {"LinalgSolveTriangularBackward0", {Flow::kMatrices, false, false}},
    // Transforms.
    {"FftC2CBackward0", kMixing, read_dims<&generated::FftC2CBackward0::dim>},
    {"FftC2RBackward0", kResizing, read_dims<&generated::FftC2RBackward0::dim>},
    {"FftR2CBackward0", kResizing, read_dims<&generated::FftR2CBackward0::dim>},
    // Networks.
    {"NativeLayerNormBackward0", kMixing, read_normalized},
    {"NativeGroupNormBackward0", kAnyGlobal, read_others<&generated::NativeGroupNormBackward0::group>},
    {"NativeBatchNormBackward0", kAnyGlobal, read_others<&generated::NativeBatchNormBackward0::training>},
    {"GluBackward0", kResizing, read_dims<&generated::GluBackward0::dim>},
    {"AdaptiveAvgPool2DBackward0", kResizing, read_last<2>},
    {"AdaptiveAvgPool3DBackward0", kResizing, read_last<3>},
    {"AvgPool3DBackward0", kLookup, read_last<3>},
    {"AvgPool2DBackward0",
     kResizing,
     read_last<
         2,
         &generated::AvgPool2DBackward0::kernel_size,
         &generated::AvgPool2DBackward0::stride,
         &generated::AvgPool2DBackward0::padding>},
    {"MaxPool2DWithIndicesBackward0", kLookup, read_last<2>},
    {"MaxPool3DWithIndicesBackward0", kLookup, read_last<3>},
    {"ReflectionPad1DBackward0", kResizing, read_last<1, &generated::ReflectionPad1DBackward0::padding>},
    {"ReflectionPad2DBackward0", kResizing, read_last<2, &generated::ReflectionPad2DBackward0::padding>},
    {"ReflectionPad3DBackward0", kResizing, read_last<3, &generated::ReflectionPad3DBackward0::padding>},
    {"ReplicationPad1DBackward0", kResizing, read_last<1, &generated::ReplicationPad1DBackward0::padding>},
    {"ReplicationPad2DBackward0", kResizing, read_last<2, &generated::ReplicationPad2DBackward0::padding>},
    {"ReplicationPad3DBackward0", kResizing, read_last<3, &generated::ReplicationPad3DBackward0::padding>},
    {"UpsampleBicubic2DBackward0", kLookup, read_last<2>},
    {"UpsampleBilinear2DBackward0", kLookup, read_last<2>},
    {"UpsampleLinear1DBackward0", kLookup, read_last<1>},
    {"UpsampleNearest1DBackward0", kLookup, read_last<1>},
    {"UpsampleNearest2DBackward0", kLookup, read_last<2>},
    {"UpsampleNearest3DBackward0", kLookup, read_last<3>},
    {"UpsampleNearestExact1DBackward0", kLookup, read_last<1>},
    {"UpsampleNearestExact2DBackward0", kLookup, read_last<2>},
    {"UpsampleTrilinear3DBackward0", kLookup, read_last<3>},
    {"GridSampler2DBackward0", kAnyLocal},
    {"BinaryCrossEntropyBackward0", kAnyLocal},
    {"BinaryCrossEntropyWithLogitsBackward0", kAnyLocal},
    {"HuberLossBackward0", kAnyLocal},
    {"MseLossBackward0", kAnyLocal},
    {"NllLossBackward0", kAnyLocal},
    {"SmoothL1LossBackward0", kAnyLocal},
    {"Im2ColBackward0", kAnyLocal},
    {"Col2ImBackward0", kAnyLocal},
    // Indices.
    {"EmbeddingBackward0", kAnyLocal},
    {"GatherBackward0", kLookup, read_dims<&generated::GatherBackward0::dim>},
    {"IndexAddBackward0", kAnyLocal},
    {"IndexBackward0", kAnyLocal},
    {"IndexCopyBackward0", kAnyLocal},
    {"IndexFillBackward0", kAnyLocal},
    {"IndexPutBackward0", kAnyLocal},
    {"IndexPutImplBackward0", kAnyLocal},
    {"IndexSelectBackward0", kLookup, read_dims<&generated::IndexSelectBackward0::dim>},
    {"MaskedScatterBackward0", kAnyLocal},
    {"ScatterAddBackward0", kAnyLocal},
    {"PutBackward0", kAnyLocal},
    {"ScatterBackward0", kAnyLocal},
    {"ScatterBackward1", kAnyLocal},
    {"TakeBackward0", kAnyLocal},
    {"TopkBackward0", kAnyLocal},
    // Complex numbers inside.
    {"ComplexBackward0", kAnyLocal},
    {"ConjBackward0", kAnyLocal},
    {"ViewAsComplexBackward0", kAnyLocal},
    {"ViewAsRealBackward0", kAnyLocal},
    // What a backward records, by its cotangent and by what it had saved.
    {"GeluBackwardBackward0", kSmooth},
    {"LogSigmoidBackwardBackward0", kSmooth},
    {"SigmoidBackwardBackward0", kSmooth},
    {"SoftplusBackwardBackward0", kSmooth},
    {"TanhBackwardBackward0", kSmooth},
    {"EluBackwardBackward0", kChosen},
    {"HardshrinkBackwardBackward0", kChosen},
    {"HardswishBackwardBackward0", kChosen},
    {"HardtanhBackwardBackward0", kChosen},
    {"LeakyReluBackwardBackward0", kChosen},
    {"SoftshrinkBackwardBackward0", kChosen},
    {"ThresholdBackwardBackward0", kChosen},
    {"SliceBackwardBackward0",
     kResizing,
     read_dims<
         &generated::SliceBackwardBackward0::dim,
         &generated::SliceBackwardBackward0::start,
         &generated::SliceBackwardBackward0::end,
         &generated::SliceBackwardBackward0::step>},
    {"SelectBackwardBackward0",
     {Flow::kInsert, true, false},
     read_dims<&generated::SelectBackwardBackward0::dim, &generated::SelectBackwardBackward0::index>},
    {"DiagonalBackwardBackward0",
     kAnyGlobal,
     read_others<
         &generated::DiagonalBackwardBackward0::dim1,
         &generated::DiagonalBackwardBackward0::dim2,
         &generated::DiagonalBackwardBackward0::offset>},
    {"UnfoldBackwardBackward0",
     kAnyGlobal,
     read_others<
         &generated::UnfoldBackwardBackward0::dim,
         &generated::UnfoldBackwardBackward0::size,
         &generated::UnfoldBackwardBackward0::step>},
    {"LogSoftmaxBackwardDataBackward0", kMoving, read_dims<&generated::LogSoftmaxBackwardDataBackward0::dim>},
    {"SoftmaxBackwardDataBackward0", kMoving, read_dims<&generated::SoftmaxBackwardDataBackward0::dim>},
    {"ConvolutionBackwardBackward0", kAnyGlobal, read_convolution<generated::ConvolutionBackwardBackward0>},
    {"AvgPool2DBackwardBackward0", kLookup, read_last<2>},
    {"MaxPool2DWithIndicesBackwardBackward0", kLookup, read_last<2>},
    {"ReflectionPad1DBackwardBackward0", kLookup, read_last<1>},
    {"ReflectionPad2DBackwardBackward0", kLookup, read_last<2>},
    {"ReplicationPad1DBackwardBackward0", kLookup, read_last<1>},
    {"ReplicationPad2DBackwardBackward0", kLookup, read_last<2>},
    {"UpsampleBilinear2DBackwardBackward0", kLookup, read_last<2>},
    {"UpsampleLinear1DBackwardBackward0", kLookup, read_last<1>},
    {"UpsampleNearest1DBackwardBackward0", kLookup, read_last<1>},
    {"UpsampleNearest2DBackwardBackward0", kLookup, read_last<2>},
    {"GluBackwardBackward0", kAnyLocal},
    {"HuberLossBackwardBackward0", kAnyLocal},
    {"MseLossBackwardBackward0", kAnyLocal},
    {"PreluKernelBackwardBackward0", kAnyLocal},
    {"SmoothL1LossBackwardBackward0", kAnyLocal},
    // Ours.
    {"AssembleRowsBackward", kAnyLocal},
    {"CompressBackward", kAnyLocal},
    {"DecompressBackward", kAnyLocal},
};

} // namespace

c10::ArrayRef<Row> node_rows() {
  return kRows;
}

} // namespace highgrad::structure
