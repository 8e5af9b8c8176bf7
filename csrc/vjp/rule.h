#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/OptionalArrayRef.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <typeindex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace highgrad::vjp {

using Shape = std::vector<int64_t>;
using Cotangents = std::vector<at::Tensor>;

// Maps batches of the cotangents that a Node takes, each [B, *shape] or undefined for zeros, at least one of them
// defined, to batches of those that it hands on, one a link. It may move from what it takes, and may hand on cotangents
// of the shape that the operation's operands were broadcast to; what nobody wants stays undefined.
using BatchedVjp = std::function<void(Cotangents& taken, Cotangents& given)>;

// A Node of which the batched product is wanted.
struct Call {
  torch::autograd::Node& node;
  std::vector<Shape> taken; // of each cotangent that the Node takes
  std::vector<std::optional<Shape>> given; // of each that it hands on, or none if nobody wants it
  bool is_one_row = false; // whether all that is wanted is one batch of one row: what is prepared is used once

  bool wants(size_t link) const {
    return given[link].has_value();
  }

  // What the Node has saved. Raises Unserved where unpacking calls a user's hook, which must see torch's engine run.
  at::Tensor saved(const torch::autograd::SavedVariable& variable) const;

  // [B, *shape], with the batch of `cotangents`.
  static Shape batch_of(const at::Tensor& cotangents, const Shape& shape);
};

// A Node that looks as if it had a rule, and has none.
struct Unserved : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Unpacks what the Node has saved, once for all batches. Null for a Node that the rule does not cover.
using Rule = std::function<BatchedVjp(const Call&)>;
using RuleTable = std::unordered_map<std::type_index, Rule>;

// Adds the row of Nodes of type T: `make` is called with the Call and the T.
template <typename T, typename Make>
void add_rule(RuleTable& table, Make make) {
  table[typeid(T)] = [make](const Call& call) -> BatchedVjp { return make(call, static_cast<const T&>(call.node)); };
}

// Adds the row of Nodes that take one cotangent and hand on one: `make` gives a function of a tensor.
template <typename T, typename Make>
void add_unary(RuleTable& table, Make make) {
  add_rule<T>(table, [make](const Call& call, const T& node) -> BatchedVjp {
    auto map = make(call, node);
    return [map](Cotangents& taken, Cotangents& given) { given[0] = map(std::move(taken[0])); };
  });
}

// Adds the row of Nodes that hand on what they take.
template <typename T>
void add_identity(RuleTable& table) {
  add_unary<T>(table, [](const Call& /*call*/, const T& /*node*/) { return [](at::Tensor grad) { return grad; }; });
}

// The parts of the table.
void add_pointwise_rules(RuleTable& table);
void add_sum_rules(RuleTable& table); // of tensors, of which pointwise rules are, too
void add_product_rules(RuleTable& table);
void add_convolution_rules(RuleTable& table);
void add_reduction_rules(RuleTable& table);
void add_shape_rules(RuleTable& table);
void add_statistics_rules(RuleTable& table);
void add_image_rules(RuleTable& table);
void add_network_rules(RuleTable& table);
void add_loss_rules(RuleTable& table);
void add_write_rules(RuleTable& table);
void add_linear_algebra_rules(RuleTable& table);
void add_recurrent_rules(RuleTable& table);
void add_pick_rules(RuleTable& table);
void add_scatter_rules(RuleTable& table);
void add_special_rules(RuleTable& table);
void add_decomposition_rules(RuleTable& table);
void add_recorded_rules(RuleTable& table);
void add_complex_rules(RuleTable& table); // of another table
void add_jet_rules(RuleTable& table);

// `shape` with size 1 where `dims` (none: everywhere) are reduced.
Shape reduced(Shape shape, at::OptionalIntArrayRef dims);

// The derivative of a reduction: the cotangents, in shape `kept` with size 1 where it reduces, times a factor.
BatchedVjp by_factor(Shape kept, at::Tensor factor);

// The dims that a Node of a reduction has saved.
template <typename T>
at::OptionalIntArrayRef dims_of(const T& node) {
  return node.dim.list.has_value() ? at::OptionalIntArrayRef(*node.dim.list) : std::nullopt;
}

// Sizes that are known.
std::vector<int64_t> to_ints(c10::SymIntArrayRef values);

// The indices that a Node has saved, for tensors with the batch in front. None where some are apart: they put their
// dimensions in front of all, the batch included.
std::optional<c10::List<std::optional<at::Tensor>>> batched_indices(
    const Call& call,
    const std::vector<torch::autograd::SavedVariable>& variables);

// One tensor of indices, along `dim` of tensors with the batch in front: of `sizes`, its elements in one row, from 0
// on.
struct IndexAlong {
  int64_t dim;
  at::Tensor index;
  Shape sizes;
};

// What of these indices into `whole` index_select and index_add take, which move all that lies along at once. None for
// several indices and for masks, and where those are slower than index and index_put, or sum in no fixed order.
std::optional<IndexAlong> index_along(const c10::List<std::optional<at::Tensor>>& indices, const at::Tensor& whole);

// Dimension `dim` of a tensor of this shape, with the batch in front; and several of them.
int64_t batched_dim(int64_t dim, const Shape& shape);
std::vector<int64_t> batched_dims(at::IntArrayRef dims, const Shape& shape);

// Cotangents where `mask`, which broadcasts to them, is true, and zero where it is false, whatever stands there.
at::Tensor keep_where(const at::Tensor& mask, const at::Tensor& cotangents);

// [B, b, n, m] by [b, m, k]: [B, b, n, k], as b products of B * n rows.
at::Tensor batches_times_right(const at::Tensor& grad, const at::Tensor& right);

// Sums `tensor` over the dimensions that an operand of `shape` was broadcast along; the first `front` dims are not the
// operand's, and stay.
at::Tensor sum_broadcast(const at::Tensor& tensor, int64_t front, const Shape& shape);

// The mean of x along some dimensions, and the inverse of its deviation, of which a Node has saved the value alone,
// both with size 1 there and with a graph.
std::pair<at::Tensor, at::Tensor> recorded_statistics(
    const at::Tensor& x,
    at::IntArrayRef dims,
    const at::Tensor& saved_inverse);

// The rule of a Node, or null. Those of cotangents of which some are complex have a table of their own.
const Rule* find_rule(const torch::autograd::Node& node, bool is_complex = false);

// The names of the Nodes that have a rule.
std::vector<std::string> known_nodes();

// Whether `tensor` may be overwritten: nobody else sees it, and nothing is recorded.
bool is_ours(const at::Tensor& tensor);

// `cotangents` times `factor`, which broadcasts to them.
at::Tensor times(at::Tensor cotangents, const at::Tensor& factor);
at::Tensor times(at::Tensor cotangents, const at::Scalar& factor);

} // namespace highgrad::vjp
