#pragma once

#include <torch/csrc/autograd/function.h>

#include <functional>
#include <string>
#include <vector>

namespace highgrad::tape {

// What torch's vmap gets silently wrong of a Node's backward.
enum class Distrust {
  kNone,
  kGraph, // only what create_graph records: the values are right, their derivatives are not
  kNotFinite, // only the values of cotangents that are not finite
  kValues,
};

// What to expect of this Node, or of one that it wraps. `computes(k)` tells whether the sweep computes its k-th output.
Distrust distrust_of(torch::autograd::Node& node, const std::function<bool(size_t)>& computes);

// Whether the Node's vector-Jacobian product is known to be linear in its cotangent: a Node of torch's own or of ours,
// without hooks, which see, and may change, every cotangent that passes.
bool is_vjp_linear(torch::autograd::Node& node);

// Whether, besides, the product is differentiable by that cotangent once it is recorded: a few Nodes of torch's are
// known to compute theirs so that it is not.
bool is_vjp_recorded(torch::autograd::Node& node);

// Whether torch's own backward, once it is recorded, has wrong derivatives or none, where our product has right ones.
bool is_recorded_wrong(const torch::autograd::Node& node);

// Whether the Node, or the one that it wraps, is a custom Function.
bool is_custom(torch::autograd::Node& node);

// The names of all Nodes that are not trusted always.
std::vector<std::string> distrusted_nodes();

} // namespace highgrad::tape
