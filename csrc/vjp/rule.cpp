#include "vjp/rule.h"

#include <ATen/WrapDimUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>
#include <c10/util/Type.h>
#include <c10/util/irange.h>

#include <utility>

namespace highgrad::vjp {

at::Tensor Call::saved(const torch::autograd::SavedVariable& variable) const {
  if (variable.has_hooks()) {
    throw Unserved("a saved tensor has hooks");
  }
  return variable.unpack(node.getptr());
}

Shape Call::batch_of(const at::Tensor& cotangents, const Shape& shape) {
  Shape batched;
  batched.reserve(shape.size() + 1);
  batched.push_back(cotangents.size(0));
  batched.insert(batched.end(), shape.begin(), shape.end());
  return batched;
}

namespace {

const RuleTable& table() {
  static const auto* rules = [] {
    auto* all = new RuleTable;
    add_pointwise_rules(*all);
    add_product_rules(*all);
    add_convolution_rules(*all);
    add_reduction_rules(*all);
    add_shape_rules(*all);
    add_statistics_rules(*all);
    add_image_rules(*all);
    add_network_rules(*all);
    add_loss_rules(*all);
    add_write_rules(*all);
    add_linear_algebra_rules(*all);
    add_recurrent_rules(*all);
    add_pick_rules(*all);
    add_scatter_rules(*all);
    add_special_rules(*all);
    add_decomposition_rules(*all);
    add_recorded_rules(*all);
    add_jet_rules(*all);
    return all;
  }();
  return *rules;
}

const RuleTable& complex_table() {
  static const auto* rules = [] {
    auto* all = new RuleTable;
    add_complex_rules(*all);
    return all;
  }();
  return *rules;
}

} // namespace

const Rule* find_rule(const torch::autograd::Node& node, bool is_complex) {
  const RuleTable& rules = is_complex ? complex_table() : table();
  const auto row = rules.find(typeid(node));
  return row == rules.end() ? nullptr : &row->second;
}

std::vector<std::string> known_nodes() {
  std::vector<std::string> names;
  for (const RuleTable* rules : {&table(), &complex_table()}) {
    for (const auto& [type, rule] : *rules) {
      const std::string name = c10::demangle(type.name());
      names.push_back(name.substr(name.rfind(':') + 1));
    }
  }
  return names;
}

std::vector<int64_t> to_ints(c10::SymIntArrayRef values) {
  return C10_AS_INTARRAYREF_SLOW(values).vec();
}

int64_t batched_dim(int64_t dim, const Shape& shape) {
  return at::maybe_wrap_dim(dim, static_cast<int64_t>(shape.size())) + 1;
}

std::vector<int64_t> batched_dims(at::IntArrayRef dims, const Shape& shape) {
  std::vector<int64_t> all;
  for (const int64_t dim : dims) {
    all.push_back(batched_dim(dim, shape));
  }
  return all;
}

at::Tensor sum_broadcast(const at::Tensor& tensor, int64_t front, const Shape& shape) {
  if (tensor.sizes().slice(front) == at::IntArrayRef(shape)) {
    return tensor;
  }
  const int64_t first = tensor.dim() - static_cast<int64_t>(shape.size()); // of the operand's own dims
  std::vector<int64_t> summed;
  for (const auto dim : c10::irange(front, tensor.dim())) {
    if (dim < first || (shape[dim - first] == 1 && tensor.size(dim) != 1)) {
      summed.push_back(dim);
    }
  }
  std::vector<int64_t> sizes = tensor.sizes().slice(0, front).vec();
  sizes.insert(sizes.end(), shape.begin(), shape.end());
  return (summed.empty() ? tensor : tensor.sum(summed, /*keepdim=*/true)).reshape(sizes);
}

at::Tensor keep_where(const at::Tensor& mask, const at::Tensor& cotangents) {
  return at::where(mask, cotangents, at::scalar_tensor(0, cotangents.options()));
}

BatchedVjp by_factor(Shape kept, at::Tensor factor) {
  return [kept = std::move(kept), factor = std::move(factor)](Cotangents& taken, Cotangents& given) {
    if (taken[0].defined()) {
      given[0] = at::mul(taken[0].reshape(Call::batch_of(taken[0], kept)), factor);
    }
  };
}

bool is_ours(const at::Tensor& tensor) {
  return !at::GradMode::is_enabled() && tensor.use_count() == 1 && tensor.has_storage() &&
      tensor.storage().use_count() == 1 && tensor.is_non_overlapping_and_dense();
}

at::Tensor times(at::Tensor cotangents, const at::Tensor& factor) {
  const bool same_dtype = factor.dim() == 0 || factor.scalar_type() == cotangents.scalar_type();
  return same_dtype && is_ours(cotangents) ? cotangents.mul_(factor) : at::mul(cotangents, factor);
}

at::Tensor times(at::Tensor cotangents, const at::Scalar& factor) {
  if (factor.equal(1)) {
    return cotangents;
  }
  return is_ours(cotangents) ? cotangents.mul_(factor) : at::mul(cotangents, factor);
}

} // namespace highgrad::vjp
