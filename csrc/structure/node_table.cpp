#include "structure/node_table.h"

#include <ATen/core/ivalue.h>
#include <c10/core/SymInt.h>
#include <c10/util/flat_hash_map.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <string_view>
#include <typeinfo>
#include <utility>

namespace highgrad::structure {
namespace {

using torch::autograd::Node;
namespace generated = torch::autograd::generated;

// Collects integers that Nodes have saved, of whatever kind.
struct Reader {
  NodeAttributes attributes;
  bool is_known = true;

  void append(std::vector<int64_t>& to, int64_t value) {
    to.push_back(value);
  }
  void append(std::vector<int64_t>& to, const c10::SymInt& value) {
    const auto known = value.maybe_as_int();
    is_known &= known.has_value();
    to.push_back(known.value_or(0));
  }
  template <typename T>
  void append(std::vector<int64_t>& to, const std::optional<T>& value) {
    to.push_back(value.has_value());
    if (value.has_value()) {
      append(to, *value);
    }
  }
  template <typename T>
  void append(std::vector<int64_t>& to, const std::vector<T>& values) {
    for (const T& value : values) {
      append(to, value);
    }
  }
  template <typename T>
  void append(std::vector<int64_t>& to, const c10::OptionalArray<T>& values) {
    if (values.list.has_value()) {
      append(to, *values.list);
    }
  }
};

template <typename T, typename Value>
Value& member(Node& node, Value T::*pointer) {
  return static_cast<T&>(node).*pointer;
}

using Read = void (*)(Node&, Reader&);

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

void read_exponent(Node& node, Reader& reader) {
  reader.attributes.others = {static_cast<generated::PowBackward0&>(node).exponent.equal(0)};
}

template <typename Product>
bool are_both_strided(Node& node);

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

struct Row {
  std::string_view name;
  NodeFacts facts;
  Read read = nullptr;
  // Whether `facts` hold of this Node; if not, only that it hands NaN on.
  bool (*applies)(Node&) = nullptr;
};

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
    {"GeluBackward0", kSmooth},
    {"LeakyReluBackward0", kSmooth},
    {"LerpBackward0", kSmooth},
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
    {"PowBackward0", kSmooth, read_exponent},
    {"ReciprocalBackward0", kSmooth},
    {"RsqrtBackward0", kSmooth},
    {"RsubBackward0", kSmooth},
    {"SigmoidBackward0", kSmooth},
    {"SiluBackward0", kSmooth},
    {"SinBackward0", kSmooth},
    {"SinhBackward0", kSmooth},
    {"SoftplusBackward0", kSmooth},
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
    {"LogaddexpBackward0", kMasked},
    {"LogitBackward0", kMasked},
    {"PowBackward1", kMasked},
    {"PreluKernelBackward0", kMasked},
    {"ReluBackward0", kMasked},
    {"SincBackward0", kMasked},
    {"ThresholdBackward0", kMasked},
    {"XlogyBackward0", kMasked},
    {"FmaxBackward0", kChosen},
    {"FminBackward0", kChosen},
    {"HardshrinkBackward0", kChosen},
    {"MaskedFillBackward0", kChosen},
    {"MaskedFillBackward1", kChosen},
    {"MaximumBackward0", kChosen},
    {"MinimumBackward0", kChosen},
    {"NanToNumBackward0", kChosen},
    {"SoftshrinkBackward0", kChosen},
    {"WhereBackward0", kChosen},
    {"TrilBackward0",
     {Flow::kPointwise, true, false},
     read_others<&generated::TrilBackward0::diagonal>},
    {"TriuBackward0",
     {Flow::kPointwise, true, false},
     read_others<&generated::TriuBackward0::diagonal>},
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
    {"AsStridedBackward0", kAnyLocal},
    {"PixelShuffleBackward0", kAnyLocal},
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
    {"LinalgVectorNormBackward0",
     {Flow::kReduce, false, true},
     read_dims<&generated::LinalgVectorNormBackward0::dim>},
    {"NormBackward1", {Flow::kReduce, false, true}, read_dims<&generated::NormBackward1::dim>},
    {"ProdBackward1", {Flow::kReduce, false, true}, read_dims<&generated::ProdBackward1::dim>},
    {"StdBackward0", {Flow::kReduce, false, true}, read_dims<&generated::StdBackward0::dim>},
    {"AmaxBackward0", kSelection, read_dims<&generated::AmaxBackward0::dim>},
    {"AminBackward0", kSelection, read_dims<&generated::AminBackward0::dim>},
    {"MaxBackward0", kSelection, read_dims<&generated::MaxBackward0::dim>},
    {"MinBackward0", kSelection, read_dims<&generated::MinBackward0::dim>},
    {"LogSoftmaxBackward0", kMixing, read_dims<&generated::LogSoftmaxBackward0::dim>},
    {"SoftmaxBackward0", kMixing, read_dims<&generated::SoftmaxBackward0::dim>},
    {"CumsumBackward0", kMoving, read_dims<&generated::CumsumBackward0::dim>},
    {"CumprodBackward0", kSorting, read_dims<&generated::CumprodBackward0::dim>},
    {"CummaxBackward0", kSorting, read_dims<&generated::CummaxBackward0::dim>},
    {"CumminBackward0", kSorting, read_dims<&generated::CumminBackward0::dim>},
    {"SortBackward0", kSorting, read_dims<&generated::SortBackward0::dim>},
    // Products.
    {"AddbmmBackward0", kAnyGlobal},
    {"AddmmBackward0", kProduct, nullptr, are_both_strided<generated::AddmmBackward0>},
    {"AddmvBackward0", kProduct},
    {"BaddbmmBackward0", kProduct},
    {"BmmBackward0", kProduct},
    {"DotBackward0", kProduct},
    {"MmBackward0", kProduct, nullptr, are_both_strided<generated::MmBackward0>},
    {"MvBackward0", kProduct},
    {"ConvolutionBackward0",
     {Flow::kConvolution, true, false},
     read_others<
         &generated::ConvolutionBackward0::stride,
         &generated::ConvolutionBackward0::padding,
         &generated::ConvolutionBackward0::dilation,
         &generated::ConvolutionBackward0::output_padding,
         &generated::ConvolutionBackward0::transposed,
         &generated::ConvolutionBackward0::groups>},
    // Networks.
    {"NativeLayerNormBackward0", kMixing, read_normalized},
    {"NativeGroupNormBackward0", kAnyGlobal, read_others<&generated::NativeGroupNormBackward0::group>},
    {"NativeBatchNormBackward0", kAnyGlobal, read_others<&generated::NativeBatchNormBackward0::training>},
    {"GluBackward0", kResizing, read_dims<&generated::GluBackward0::dim>},
    {"AvgPool2DBackward0",
     kResizing,
     read_last<
         2,
         &generated::AvgPool2DBackward0::kernel_size,
         &generated::AvgPool2DBackward0::stride,
         &generated::AvgPool2DBackward0::padding>},
    {"MaxPool2DWithIndicesBackward0", kLookup, read_last<2>},
    {"ReflectionPad1DBackward0", kResizing, read_last<1, &generated::ReflectionPad1DBackward0::padding>},
    {"ReflectionPad2DBackward0", kResizing, read_last<2, &generated::ReflectionPad2DBackward0::padding>},
    {"ReplicationPad1DBackward0", kResizing, read_last<1, &generated::ReplicationPad1DBackward0::padding>},
    {"ReplicationPad2DBackward0", kResizing, read_last<2, &generated::ReplicationPad2DBackward0::padding>},
    {"UpsampleBilinear2DBackward0", kLookup, read_last<2>},
    {"UpsampleLinear1DBackward0", kLookup, read_last<1>},
    {"UpsampleNearest1DBackward0", kLookup, read_last<1>},
    {"UpsampleNearest2DBackward0", kLookup, read_last<2>},
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
    {"IndexFillBackward0", kAnyLocal},
    {"IndexPutBackward0", kAnyLocal},
    {"IndexSelectBackward0", kLookup, read_dims<&generated::IndexSelectBackward0::dim>},
    {"MaskedScatterBackward0", kAnyLocal},
    {"ScatterAddBackward0", kAnyLocal},
    {"ScatterBackward0", kAnyLocal},
    {"TakeBackward0", kAnyLocal},
    {"TopkBackward0", kAnyLocal},
    // Complex numbers inside.
    {"ComplexBackward0", kAnyLocal},
    {"ConjBackward0", kAnyLocal},
    {"ViewAsComplexBackward0", kAnyLocal},
    {"ViewAsRealBackward0", kAnyLocal},
    // Ours.
    {"AssembleRowsBackward", kAnyLocal},
    {"CompressBackward", kAnyLocal},
    {"DecompressBackward", kAnyLocal},
};

// Mangled names of generated Nodes and of ours begin and end so, with the length of the name before it.
bool is_row_of(std::string_view mangled, std::string_view name) {
  const auto starts = [&](std::string_view scope) { return mangled.substr(0, scope.size()) == scope; };
  if (!starts("N5torch8autograd9generated") && !starts("N8highgrad3ops")) {
    return false;
  }
  const std::string suffix = std::to_string(name.size()) + std::string(name) + "E";
  return mangled.size() > suffix.size() && mangled.substr(mangled.size() - suffix.size()) == suffix;
}

const Row* find_row(const std::type_info& type) {
  // By the address of the type's name: looked up once a type and thread.
  static thread_local ska::flat_hash_map<const char*, const Row*> known;
  const auto [entry, is_new] = known.emplace(type.name(), nullptr);
  if (is_new) {
    for (const Row& row : kRows) {
      if (is_row_of(type.name(), row.name)) {
        entry->second = &row;
        break;
      }
    }
  }
  return entry->second;
}

} // namespace

const NodeFacts* facts_of(Node& node) {
  if (!node.pre_hooks().empty() || !node.tensor_pre_hooks().empty() || !node.post_hooks().empty()) {
    return nullptr;
  }
  const Row* row = find_row(typeid(node));
  if (row != nullptr && row->applies != nullptr && !row->applies(node)) {
    return &kAnyLocal;
  }
  return row == nullptr ? nullptr : &row->facts;
}

std::optional<NodeAttributes> attributes_of(Node& node, int64_t in_rank, int64_t out_rank) {
  const Row* row = find_row(typeid(node));
  Reader reader;
  if (row == nullptr) {
    return std::nullopt;
  }
  if (row->read != nullptr) {
    row->read(node, reader);
  }
  if (!reader.is_known) {
    return std::nullopt;
  }
  const int64_t rank = row->facts.flow == Flow::kInsert ? out_rank : in_rank;
  for (int64_t& dim : reader.attributes.dims) {
    dim = dim < 0 ? dim + rank : dim;
    if (dim < 0 || dim >= std::max<int64_t>(rank, 1)) {
      return std::nullopt;
    }
  }
  return std::move(reader.attributes);
}

std::vector<std::string> known_nodes() {
  std::vector<std::string> names;
  for (const Row& row : kRows) {
    names.emplace_back(row.name);
  }
  return names;
}

} // namespace highgrad::structure
