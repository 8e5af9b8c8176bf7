#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <vector>

#include "engine/endpoint.h"

namespace highgrad::engine {

// Note [Forward mode by double backward]
// The vector-Jacobian product g(u) = u^T J is linear in u. Recorded once for a dummy u, its own vector-Jacobian
// products by u are J v: one column of J each, exactly, without running f again. (J. Townsend, "A new trick for
// calculating Jacobian vector products", 2017.)
struct Linearization {
  at::Tensor cotangent; // u, of the root's shape: a leaf
  std::vector<at::Tensor> products; // g(u) by each input, or undefined where none arrives
};

// Records g(u) for u = `cotangent`, of the root's shape, dtype and device. Keeps the graph behind `root`.
Linearization linearize(const Endpoint& root, const torch::autograd::edge_list& inputs, at::Tensor cotangent);

} // namespace highgrad::engine
