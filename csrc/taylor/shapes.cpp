// Rules of linear operations: sums of tensors, and views, copies and joins that move elements.

#include <ATen/ExpandUtils.h>
#include <ATen/TensorOperators.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;

// A map of the rows [R, *shape]; dimension d of the tensor is d + 1 of the rows.
template <typename T, typename Map>
void add_map(RuleTable& table, Map map) {
  add_rule<T>(table, linear_degree, [map](const Call& call, const T& node) {
    return Jet{map(call, node, call.inputs[0].rows), call.inputs[0].terms};
  });
}

template <typename T>
void add_identity(RuleTable& table) {
  add_rule<T>(table, linear_degree, [](const Call& call, const T& /*node*/) { return call.inputs[0]; });
}

// The dimension of the rows that is `dim` of their tensor.
int64_t row_dim(int64_t dim, const at::Tensor& rows, int64_t more_dims = 0) {
  return at::maybe_wrap_dim(dim, rows.dim() - 1 + more_dims) + 1;
}

std::vector<int64_t> rows_shape(const Call& call, const at::Tensor& rows, size_t output = 0) {
  std::vector<int64_t> shape = call.output_shape(output);
  shape.insert(shape.begin(), rows.size(0));
  return shape;
}

template <typename T>
void add_reshape(RuleTable& table) {
  add_map<T>(table, [](const Call& call, const T& /*node*/, const at::Tensor& rows) {
    return rows.reshape(rows_shape(call, rows));
  });
}

void add_views(RuleTable& table) {
  add_reshape<ReshapeAliasBackward0>(table);
  add_reshape<SqueezeBackward0>(table);
  add_reshape<SqueezeBackward1>(table);
  add_reshape<SqueezeBackward2>(table);
  add_reshape<SqueezeBackward3>(table);
  add_reshape<SqueezeBackward4>(table);
  add_reshape<SqueezeBackward5>(table);
  add_reshape<UnsqueezeBackward1>(table);
  add_reshape<UnsafeViewBackward0>(table);
  add_reshape<UnsqueezeBackward0>(table);
  add_reshape<ViewBackward0>(table);
  add_identity<AliasBackward0>(table);
  add_identity<CloneBackward0>(table);
  add_map<ToCopyBackward0>(table, [](const Call& call, const ToCopyBackward0& /*node*/, const at::Tensor& rows) {
    return rows.to(call.node.input_metadata(0).device());
  });
  add_map<ExpandBackward0>(table, [](const Call& call, const ExpandBackward0& /*node*/, const at::Tensor& rows) {
    return align(rows, static_cast<int64_t>(call.output_shape().size())).expand(rows_shape(call, rows));
  });
  add_map<TBackward0>(table, [](const Call& /*call*/, const TBackward0& /*node*/, const at::Tensor& rows) {
    return rows.dim() < 3 ? rows : rows.transpose(1, 2);
  });
  add_map<TransposeBackward0>(table, [](const Call& /*call*/, const TransposeBackward0& node, const at::Tensor& rows) {
    return rows.dim() == 1 ? rows : rows.transpose(row_dim(node.dim0, rows), row_dim(node.dim1, rows));
  });
  add_map<PermuteBackward0>(table, [](const Call& /*call*/, const PermuteBackward0& node, const at::Tensor& rows) {
    std::vector<int64_t> dims{0};
    for (const int64_t dim : node.dims) {
      dims.push_back(row_dim(dim, rows));
    }
    return rows.permute(dims);
  });
  add_map<SelectBackward0>(table, [](const Call& /*call*/, const SelectBackward0& node, const at::Tensor& rows) {
    return rows.select_symint(row_dim(node.dim, rows), node.index);
  });
  add_map<SliceBackward0>(table, [](const Call& /*call*/, const SliceBackward0& node, const at::Tensor& rows) {
    return rows.slice_symint(row_dim(node.dim, rows), node.start, node.end, node.step);
  });
}

// The parts of a split, whose sizes along `dim` their own shapes tell.
std::vector<Jet> split(const Call& call, int64_t dim) {
  const Jet& input = call.inputs[0];
  const int64_t along = row_dim(dim, input.rows);
  std::vector<Jet> parts;
  int64_t first = 0;
  for (const auto k : c10::irange(call.node.num_inputs())) {
    const int64_t length = call.output_shape(k)[along - 1];
    parts.push_back({input.rows.narrow(along, first, length), input.terms});
    first += length;
  }
  return parts;
}

// The rows of every input with equally many terms, zeros for those off the tape. shape_of(k) is input k's own.
template <typename ShapeOf>
std::pair<std::vector<at::Tensor>, int64_t> all_rows(const Call& call, ShapeOf&& shape_of) {
  int64_t terms = 0;
  const Jet* any = nullptr;
  for (const Jet& input : call.inputs) {
    if (input.terms > terms) {
      terms = input.terms;
      any = &input;
    }
  }
  std::vector<at::Tensor> rows;
  for (const auto k : c10::irange(call.inputs.size())) {
    if (call.inputs[k].is_zero()) {
      std::vector<int64_t> shape = shape_of(k);
      shape.insert(shape.begin(), call.frame.rows(terms));
      rows.push_back(at::zeros(shape, any->rows.options()));
    } else {
      rows.push_back(padded(call.frame, call.inputs[k], terms).rows);
    }
  }
  return {std::move(rows), terms};
}

void add_joins(RuleTable& table) {
  add_map<MaskedSelectBackward0>(
      table, [](const Call& call, const MaskedSelectBackward0& node, const at::Tensor& rows) {
        const at::Tensor mask = node.mask_.unpack(call.node.getptr());
        std::vector<int64_t> shape = at::infer_size(rows.sizes().slice(1), mask.sizes());
        const at::Tensor places = mask.expand(shape).reshape(-1).nonzero().squeeze(1);
        shape.insert(shape.begin(), rows.size(0));
        const at::Tensor whole = align(rows, static_cast<int64_t>(shape.size()) - 1).expand(shape);
        return whole.flatten(1).index_select(1, places);
      });
  add_rule_of_many<UnbindBackward0>(table, linear_degree, [](const Call& call, const UnbindBackward0& node) {
    std::vector<Jet> parts;
    for (const at::Tensor& part : call.inputs[0].rows.unbind(row_dim(node.dim, call.inputs[0].rows))) {
      parts.push_back({part, call.inputs[0].terms});
    }
    return parts;
  });
  add_rule_of_many<SplitBackward0>(
      table, linear_degree, [](const Call& call, const SplitBackward0& node) { return split(call, node.dim); });
  add_rule_of_many<SplitWithSizesBackward0>(
      table, linear_degree, [](const Call& call, const SplitWithSizesBackward0& node) {
        return split(call, node.dim);
      });
  add_rule_of_many<UnsafeSplitBackward0>(
      table, linear_degree, [](const Call& call, const UnsafeSplitBackward0& node) { return split(call, node.dim); });
  add_rule_of_many<UnsafeSplitWithSizesBackward0>(
      table, linear_degree, [](const Call& call, const UnsafeSplitWithSizesBackward0& node) {
        return split(call, node.dim);
      });
  add_rule<CatBackward0>(table, linear_degree, [](const Call& call, const CatBackward0& node) -> Jet {
    const auto [rows, terms] = all_rows(call, [&](size_t k) {
      std::vector<int64_t> shape;
      for (const c10::SymInt& size : node.tensors_args_sizes_symint[k]) {
        shape.push_back(size.guard_int(__FILE__, __LINE__));
      }
      return shape;
    });
    std::vector<at::Tensor> parts;
    const size_t dims = call.output_shape().size() + 1;
    for (const at::Tensor& part : rows) {
      // Empty tensors of one dimension join with everything.
      if (static_cast<size_t>(part.dim()) == dims) {
        parts.push_back(part);
      }
    }
    return {at::cat(parts, row_dim(node.dim, parts[0])), terms};
  });
  add_rule<StackBackward0>(table, linear_degree, [](const Call& call, const StackBackward0& node) -> Jet {
    std::vector<int64_t> shape = call.output_shape();
    const int64_t dim = at::maybe_wrap_dim(node.dim, static_cast<int64_t>(shape.size()));
    shape.erase(shape.begin() + dim);
    const auto [rows, terms] = all_rows(call, [&](size_t /*k*/) { return shape; });
    return {at::stack(rows, dim + 1), terms};
  });
}

// The part of a jet that `factor` selects, a tensor of the output's shape.
Jet masked(const Call& call, const Jet& jet, const at::Tensor& factor) {
  if (jet.is_zero()) {
    return jet;
  }
  const at::Tensor rows = align(jet.rows, static_cast<int64_t>(call.output_shape().size()));
  if (factor.scalar_type() == at::kBool) {
    return {at::where(factor, rows, at::zeros({}, rows.options())), jet.terms};
  }
  return {rows * factor, jet.terms};
}

// maximum for sign = 1, minimum for sign = -1: equal elements share evenly.
template <typename T>
void add_extremum(RuleTable& table, double sign) {
  add_rule<T>(table, linear_degree, [sign](const Call& call, const T& node) {
    const at::Tensor difference = (call.saved(node.self_) - call.saved(node.other_)).detach().sign() * sign;
    return add(
        call.frame,
        masked(call, call.inputs[0], (difference + 1) / 2),
        masked(call, call.inputs[1], (1 - difference) / 2));
  });
}

void add_sums_of_tensors(RuleTable& table) {
  add_rule<AddBackward0>(table, linear_degree, [](const Call& call, const AddBackward0& node) {
    return add(call.frame, call.inputs[0], scaled(call.inputs[1], node.alpha.toDouble()));
  });
  add_rule<SubBackward0>(table, linear_degree, [](const Call& call, const SubBackward0& node) {
    return add(call.frame, call.inputs[0], scaled(call.inputs[1], -node.alpha.toDouble()));
  });
  add_rule<RsubBackward0>(table, linear_degree, [](const Call& call, const RsubBackward0& node) {
    return add(call.frame, scaled(call.inputs[0], -node.alpha.toDouble()), call.inputs[1]);
  });
  add_rule<RsubBackward1>(table, linear_degree, [](const Call& call, const RsubBackward1& node) {
    return scaled(call.inputs[0], -node.alpha.toDouble());
  });
  add_rule<NegBackward0>(
      table, linear_degree, [](const Call& call, const NegBackward0& /*node*/) { return scaled(call.inputs[0], -1); });
  add_identity<AddBackward1>(table);
  add_identity<SubBackward1>(table);
  add_rule<WhereBackward0>(table, linear_degree, [](const Call& call, const WhereBackward0& node) {
    const at::Tensor condition = call.saved(node.condition_);
    return add(
        call.frame, masked(call, call.inputs[0], condition), masked(call, call.inputs[1], condition.logical_not()));
  });
  add_extremum<MaximumBackward0>(table, 1);
  add_extremum<MinimumBackward0>(table, -1);
}

} // namespace

void add_shape_rules(RuleTable& table) {
  add_views(table);
  add_joins(table);
  add_sums_of_tensors(table);
}

} // namespace highgrad::taylor
