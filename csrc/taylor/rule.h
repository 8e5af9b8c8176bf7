#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <functional>
#include <typeindex>
#include <unordered_map>
#include <vector>

#include "taylor/jet.h"
#include "taylor/series.h"

namespace highgrad::taylor {

// A polynomial's degree in wrt that no number bounds.
constexpr int64_t kUnbounded = int64_t{1} << 40;

// One Node, and the jets of the tensors that its operation took, in the order of its next_edges.
struct Call {
  torch::autograd::Node& node;
  const Frame& frame;
  c10::ArrayRef<Jet> inputs;

  // What the Node saved, in the dtype of the jets. It carries its graph.
  at::Tensor saved(const torch::autograd::SavedVariable& variable) const;
  // The series of input k whose value is known, ready to broadcast with the Node's output.
  Series series(size_t k, at::Tensor value) const {
    return Series(frame, inputs[k], std::move(value), static_cast<int64_t>(output_shape().size()));
  }
  std::vector<int64_t> output_shape(size_t output = 0) const;
};

// Note [Samples]
// A tensor keeps samples apart if its elements, in row-major order, are `count` runs of equal length, one for each
// sample. Reshaping does not change that; what works along dimensions must leave alone the leading ones that hold whole
// samples between them.
struct SamplesCall {
  torch::autograd::Node& node;
  int64_t count;
  // Of every input: its shape, and whether it depends on wrt, and then keeps samples apart.
  c10::ArrayRef<std::vector<int64_t>> shapes;
  const std::vector<bool>& depends;
  std::vector<int64_t> output_shape;
};

// How a Node maps jets forward: from the jets of its operation's inputs to those of its outputs.
struct Rule {
  std::function<std::vector<Jet>(const Call&)> apply;
  // The degree of the outputs, given those of the inputs.
  std::function<int64_t(torch::autograd::Node&, c10::ArrayRef<int64_t>)> degree;
  // Whether the outputs certainly keep samples apart where the inputs do; empty if that is not known.
  std::function<bool(const SamplesCall&)> samples = nullptr;
  // Whether `apply` leaves the highest order of contracted jets as products, where inputs are below it.
  bool contracts = false;
};

using RuleTable = std::unordered_map<std::type_index, Rule>;

int64_t linear_degree(torch::autograd::Node& node, c10::ArrayRef<int64_t> inputs);
int64_t product_degree(torch::autograd::Node& node, c10::ArrayRef<int64_t> inputs);
int64_t nonlinear_degree(torch::autograd::Node& node, c10::ArrayRef<int64_t> inputs);

// Adds the row of Nodes of type T whose operation has one output.
template <typename T, typename Function, typename Degree>
void add_rule(RuleTable& table, Degree degree, Function function) {
  table[typeid(T)] = {
      [function](const Call& call) { return std::vector<Jet>{function(call, static_cast<const T&>(call.node))}; },
      degree};
}

// Likewise with any number of outputs.
template <typename T, typename Function, typename Degree>
void add_rule_of_many(RuleTable& table, Degree degree, Function function) {
  table[typeid(T)] = {
      [function](const Call& call) { return function(call, static_cast<const T&>(call.node)); }, degree};
}

// The parts of the table; the first marks all rows that are there as pointwise.
void add_pointwise_rules(RuleTable& table);
void add_product_rules(RuleTable& table);
void add_reduction_rules(RuleTable& table);
void add_shape_rules(RuleTable& table);
void add_compound_rules(RuleTable& table);
void add_special_rules(RuleTable& table);
void add_loss_rules(RuleTable& table);
void add_norm_rules(RuleTable& table);
void add_normalization_rules(RuleTable& table);
void add_matrix_rules(RuleTable& table);
void add_attention_rules(RuleTable& table);
// What is known of samples, in rows that are there.
void add_sample_rules(RuleTable& table);
// Which rows contract, among those that are there.
void mark_contracting_rules(RuleTable& table);
// Of operations that map element by element, with broadcasting.
bool pointwise_samples(const SamplesCall& call);

std::vector<int64_t> shape_of(const torch::autograd::Node& node, size_t output);

// Dimensions counted from the end, so that they name the same ones of a value and of its coefficients. None of them,
// or an absent list, means all, as torch has it.
std::vector<int64_t> dims_from_end(at::OptionalIntArrayRef dims, int64_t rank);

// The rule of a Node, or null.
const Rule* find_rule(torch::autograd::Node& node);

// The jets of the outputs of a Node that has a rule, of their shapes.
std::vector<Jet> apply_rule(torch::autograd::Node& node, const Frame& frame, c10::ArrayRef<Jet> inputs);

} // namespace highgrad::taylor
