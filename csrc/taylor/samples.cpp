// Which operations keep samples apart. See Note [Samples].

#include <ATen/WrapDimUtils.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <numeric>

#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;

// How many leading dimensions hold the samples between them, or -1 if none do.
int64_t sample_dims(at::IntArrayRef shape, int64_t count) {
  int64_t product = 1;
  for (const auto dim : c10::irange(shape.size())) {
    if (product % count == 0) {
      return static_cast<int64_t>(dim);
    }
    product *= shape[dim];
  }
  return product % count == 0 ? static_cast<int64_t>(shape.size()) : -1;
}

int64_t rank(const SamplesCall& call, size_t input = 0) {
  return static_cast<int64_t>(call.shapes[input].size());
}

// Whether `dims` of input k, all of them if that is empty, come after its samples.
bool are_within(const SamplesCall& call, at::OptionalIntArrayRef dims, size_t k = 0) {
  const int64_t leading = sample_dims(call.shapes[k], call.count);
  if (leading < 0 || !dims.has_value() || dims->empty()) {
    return false;
  }
  return std::all_of(dims->begin(), dims->end(), [&](int64_t dim) {
    return rank(call, k) > 0 && at::maybe_wrap_dim(dim, rank(call, k)) >= leading;
  });
}

bool is_within(const SamplesCall& call, int64_t dim) {
  return are_within(call, at::IntArrayRef(dim));
}

bool any_samples(const SamplesCall& /*call*/) {
  return true;
}

// The matrix on the left of a product has the samples in its rows; that on the right has none.
bool matrix_samples(const SamplesCall& call, size_t left, size_t right) {
  return !call.depends[right] && (!call.depends[left] || call.shapes[left][0] % call.count == 0);
}

bool batch_samples(const SamplesCall& call, size_t left, size_t right) {
  const auto in_batch = [&](size_t k) { return !call.depends[k] || call.shapes[k][0] % call.count == 0; };
  // The shape of what does not depend on wrt is not known.
  const auto in_rows = [&] {
    return call.depends[left] && !call.depends[right] && call.shapes[left][0] == 1 &&
        call.shapes[left][1] % call.count == 0;
  };
  return (in_batch(left) && in_batch(right)) || in_rows();
}

// Of the addend of addmm and its like, and of all that broadcasts: the samples stay where they are.
bool broadcast_samples(const SamplesCall& call, size_t k) {
  if (!call.depends[k]) {
    return true;
  }
  const std::vector<int64_t>& shape = call.shapes[k];
  const int64_t leading = sample_dims(shape, call.count);
  return leading >= 0 && shape.size() == call.output_shape.size() &&
      std::equal(shape.begin(), shape.begin() + leading, call.output_shape.begin());
}

bool are_permuted_within(const SamplesCall& call, const std::vector<int64_t>& dims) {
  const int64_t leading = sample_dims(call.shapes[0], call.count);
  for (const auto dim : c10::irange(leading)) {
    if (at::maybe_wrap_dim(dims[dim], rank(call)) != dim) {
      return false;
    }
  }
  return leading >= 0;
}

bool swap_samples(const SamplesCall& call, int64_t dim0, int64_t dim1) {
  std::vector<int64_t> dims(rank(call));
  std::iota(dims.begin(), dims.end(), 0);
  if (!dims.empty()) {
    std::swap(dims[at::maybe_wrap_dim(dim0, rank(call))], dims[at::maybe_wrap_dim(dim1, rank(call))]);
  }
  return are_permuted_within(call, dims);
}

bool join_samples(const SamplesCall& call, int64_t dim, int64_t new_dims) {
  for (const auto k : c10::irange(call.shapes.size())) {
    if (call.depends[k]) {
      const int64_t leading = sample_dims(call.shapes[k], call.count);
      if (leading < 0 || at::maybe_wrap_dim(dim, rank(call, k) + new_dims) < leading) {
        return false;
      }
    }
  }
  return true;
}

template <typename T, typename Function>
void set(RuleTable& table, Function function) {
  table.at(typeid(T)).samples = [function](const SamplesCall& call) {
    return function(call, static_cast<const T&>(call.node));
  };
}

template <typename... T>
void set_all(RuleTable& table, bool (*function)(const SamplesCall&)) {
  ((table.at(typeid(T)).samples = function), ...);
}

template <typename... T>
void set_along_dim(RuleTable& table) {
  (set<T>(table, [](const SamplesCall& c, const T& node) { return is_within(c, node.dim); }), ...);
}

template <typename... T>
void set_along_dims(RuleTable& table) {
  (set<T>(
       table,
       [](const SamplesCall& c, const T& node) {
         return node.dim.list.has_value() && are_within(c, at::IntArrayRef(*node.dim.list));
       }),
   ...);
}

void add_products(RuleTable& table) {
  set<MmBackward0>(table, [](const SamplesCall& c, const auto&) { return matrix_samples(c, 0, 1); });
  set<MvBackward0>(table, [](const SamplesCall& c, const auto&) { return matrix_samples(c, 0, 1); });
  set<BmmBackward0>(table, [](const SamplesCall& c, const auto&) { return batch_samples(c, 0, 1); });
  set<AddmmBackward0>(
      table, [](const SamplesCall& c, const auto&) { return broadcast_samples(c, 0) && matrix_samples(c, 1, 2); });
  set<AddmvBackward0>(
      table, [](const SamplesCall& c, const auto&) { return broadcast_samples(c, 0) && matrix_samples(c, 1, 2); });
  set<BaddbmmBackward0>(
      table, [](const SamplesCall& c, const auto&) { return broadcast_samples(c, 0) && batch_samples(c, 1, 2); });
  set<ConvolutionBackward0>(table, [](const SamplesCall& c, const auto&) {
    return !c.depends[1] && !c.depends[2] && c.shapes[0][0] % c.count == 0;
  });
}

// What works on the last dimensions alone leaves samples in those before, which may broadcast.
bool last_dims_samples(const SamplesCall& call, int64_t last) {
  const int64_t leading = sample_dims(call.output_shape, call.count);
  for (const auto k : c10::irange(call.shapes.size())) {
    if (call.depends[k] &&
        (sample_dims(call.shapes[k], call.count) > rank(call, k) - last || !broadcast_samples(call, k))) {
      return false;
    }
  }
  return leading >= 0 && leading <= static_cast<int64_t>(call.output_shape.size()) - last;
}

void add_matrices(RuleTable& table) {
  const auto set_last = [&](std::initializer_list<std::type_index> types, int64_t last) {
    for (const std::type_index& type : types) {
      table.at(type).samples = [last](const SamplesCall& c) { return last_dims_samples(c, last); };
    }
  };
  set_last(
      {typeid(CdistBackward0),
       typeid(EuclideanDistBackward0),
       typeid(LinalgCholeskyExBackward0),
       typeid(LinalgInvExBackward0),
       typeid(LinalgMatrixExpBackward0),
       typeid(ScaledDotProductCudnnAttentionBackward0),
       typeid(ScaledDotProductEfficientAttentionBackward0),
       typeid(ScaledDotProductFlashAttentionBackward0),
       typeid(ScaledDotProductFlashAttentionForCpuBackward0)},
      2);
  set<NativeGroupNormBackward0>(table, [](const SamplesCall& c, const auto&) {
    return !c.depends[1] && !c.depends[2] && c.shapes[0][0] % c.count == 0;
  });
}

void add_dimensions(RuleTable& table) {
  set_all<
      AddBackward0,
      AddBackward1,
      AddcdivBackward0,
      AddcmulBackward0,
      AliasBackward0,
      Atan2Backward0,
      CloneBackward0,
      DigammaBackward0,
      DivBackward0,
      DivBackward1,
      ErfinvBackward0,
      ExpandBackward0,
      HardswishBackward0,
      HypotBackward0,
      LerpBackward1,
      LgammaBackward0,
      Logaddexp2Backward0,
      LogaddexpBackward0,
      MaximumBackward0,
      MinimumBackward0,
      MulBackward0,
      MulBackward1,
      NegBackward0,
      PowBackward0,
      PowBackward1,
      PowBackward2,
      RsubBackward0,
      RsubBackward1,
      SubBackward0,
      SubBackward1,
      ToCopyBackward0,
      WhereBackward0>(table, &pointwise_samples);
  set_all<
      ReshapeAliasBackward0,
      SqueezeBackward0,
      SqueezeBackward1,
      SqueezeBackward2,
      SqueezeBackward3,
      SqueezeBackward4,
      SqueezeBackward5,
      UnsafeViewBackward0,
      UnsqueezeBackward0,
      UnsqueezeBackward1,
      ViewBackward0>(table, &any_samples);
  set_along_dim<
      LogSoftmaxBackward0,
      CumprodBackward0,
      LogcumsumexpBackward0,
      ProdBackward1,
      SafeSoftmaxBackward0,
      SelectBackward0,
      SliceBackward0,
      SoftmaxBackward0,
      SplitBackward0,
      SplitWithSizesBackward0,
      UnbindBackward0,
      UnsafeSplitBackward0,
      UnsafeSplitWithSizesBackward0>(table);
  set_along_dims<LinalgVectorNormBackward0, MeanBackward1, StdBackward0, SumBackward1, VarBackward0>(table);
  set<NormBackward1>(
      table, [](const SamplesCall& c, const NormBackward1& node) { return are_within(c, at::IntArrayRef(node.dim)); });
  set<LogsumexpBackward0>(table, [](const SamplesCall& c, const LogsumexpBackward0& node) {
    return are_within(c, at::IntArrayRef(node.dim));
  });
  set<NativeLayerNormBackward0>(table, [](const SamplesCall& c, const NativeLayerNormBackward0& node) {
    const int64_t leading = sample_dims(c.shapes[0], c.count);
    return !c.depends[1] && !c.depends[2] && leading >= 0 &&
        leading <= rank(c) - static_cast<int64_t>(node.normalized_shape.size());
  });
  set<TBackward0>(table, [](const SamplesCall& c, const auto&) { return rank(c) < 2 || swap_samples(c, 0, 1); });
  set<TransposeBackward0>(table, [](const SamplesCall& c, const TransposeBackward0& node) {
    return swap_samples(c, node.dim0, node.dim1);
  });
  set<PermuteBackward0>(
      table, [](const SamplesCall& c, const PermuteBackward0& node) { return are_permuted_within(c, node.dims); });
  set<CatBackward0>(table, [](const SamplesCall& c, const CatBackward0& node) { return join_samples(c, node.dim, 0); });
  set<StackBackward0>(
      table, [](const SamplesCall& c, const StackBackward0& node) { return join_samples(c, node.dim, 1); });
}

} // namespace

bool pointwise_samples(const SamplesCall& call) {
  for (const auto k : c10::irange(call.shapes.size())) {
    if (!broadcast_samples(call, k)) {
      return false;
    }
  }
  return true;
}

void add_sample_rules(RuleTable& table) {
  add_products(table);
  add_dimensions(table);
  add_matrices(table);
}

} // namespace highgrad::taylor
