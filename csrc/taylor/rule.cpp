#include "taylor/rule.h"

#include <ATen/WrapDimUtils.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <numeric>

#include "taylor/affine.h"
#include "taylor/recorded_composition.h"
#include "taylor/recorded_product.h"

namespace highgrad::taylor {

using torch::autograd::Node;

at::Tensor Call::saved(const torch::autograd::SavedVariable& variable) const {
  at::Tensor tensor = variable.unpack(node.getptr());
  return tensor.defined() && tensor.is_floating_point() && tensor.scalar_type() != frame.dtype ? tensor.to(frame.dtype)
                                                                                               : tensor;
}

std::vector<int64_t> Call::output_shape(size_t output) const {
  return shape_of(node, output);
}

std::vector<int64_t> shape_of(const Node& node, size_t output) {
  std::vector<int64_t> shape;
  for (const c10::SymInt& size : node.input_metadata(output).shape_as_dim_vector()) {
    shape.push_back(size.guard_int(__FILE__, __LINE__));
  }
  return shape;
}

std::vector<int64_t> dims_from_end(at::OptionalIntArrayRef dims, int64_t rank) {
  std::vector<int64_t> result;
  if (!dims.has_value() || dims->empty()) {
    result.resize(rank);
    std::iota(result.begin(), result.end(), -rank);
    return result;
  }
  if (rank > 0) {
    for (const int64_t dim : *dims) {
      result.push_back(at::maybe_wrap_dim(dim, rank) - rank);
    }
  }
  return result;
}

int64_t linear_degree(Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
  return inputs.empty() ? 0 : *std::max_element(inputs.begin(), inputs.end());
}

int64_t product_degree(Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
  int64_t degree = 0;
  for (const int64_t input : inputs) {
    degree = std::min(degree + input, kUnbounded);
  }
  return degree;
}

int64_t nonlinear_degree(Node& node, c10::ArrayRef<int64_t> inputs) {
  return linear_degree(node, inputs) == 0 ? 0 : kUnbounded;
}

const Rule* find_rule(Node& node) {
  static const auto* table = [] {
    auto* rules = new RuleTable;
    add_pointwise_rules(*rules);
    add_product_rules(*rules);
    add_reduction_rules(*rules);
    add_shape_rules(*rules);
    add_compound_rules(*rules);
    add_special_rules(*rules);
    add_loss_rules(*rules);
    add_norm_rules(*rules);
    add_normalization_rules(*rules);
    add_matrix_rules(*rules);
    add_attention_rules(*rules);
    add_composition_rules(*rules);
    add_recorded_product_rule(*rules);
    add_sample_rules(*rules);
    mark_contracting_rules(*rules);
    return rules;
  }();
  static const auto* affine = new Rule{&transposed_vjp, &linear_degree, {}};
  const auto row = table->find(typeid(node));
  if (row != table->end()) {
    return &row->second;
  }
  return is_affine(node) ? affine : nullptr;
}

std::vector<Jet> apply_rule(Node& node, const Frame& frame, c10::ArrayRef<Jet> inputs) {
  const Call call{node, frame, inputs};
  std::vector<Jet> outputs = find_rule(node)->apply(call);
  for (const auto k : c10::irange(outputs.size())) {
    Jet& jet = outputs[k];
    if (jet.terms == 0) {
      continue;
    }
    if (!frame.counts.empty() && jet.rows.size(0) != frame.rows(jet.terms)) {
      throw Unsupported(node.name() + " does not tell directions of different orders apart");
    }
    // An operation may broadcast a jet with what does not depend on wrt.
    std::vector<int64_t> shape = call.output_shape(k);
    shape.insert(shape.begin(), jet.rows.size(0));
    if (jet.rows.sizes() != at::IntArrayRef(shape)) {
      jet.rows = align(jet.rows, static_cast<int64_t>(shape.size()) - 1).expand(shape);
    }
  }
  return outputs;
}

} // namespace highgrad::taylor
