#pragma once

#include <torch/csrc/autograd/function.h>

#include <vector>

#include "taylor/rule.h"

namespace highgrad::taylor {

// Whether the Node, or the one that it wraps, belongs to an operation that is affine in every differentiable input, or
// piecewise affine: its vector-Jacobian product does not depend on them but by masks and indices.
bool is_affine(torch::autograd::Node& node);

// The rule of an affine Node: the transpose of its own vector-Jacobian product, all rows in one batch.
std::vector<Jet> transposed_vjp(const Call& call);

} // namespace highgrad::taylor
