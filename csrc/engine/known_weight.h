#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/edge.h>

#include <optional>

#include "tape/tape.h"

namespace highgrad::engine {

// Note [Weights of linear layers]
// torch records a linear layer, y = x W^T + b, as a product with a transposed weight. Its backward makes the gradient
// of W^T, of which W's is the transposed view: all of it has to be copied into a Jacobian. So the sweep ends at y, and
// the rows of W are cotangents^T x, in the layout that they are wanted in.
struct KnownWeight {
  torch::autograd::Edge layer; // y
  at::Tensor features; // x, [samples, columns of W], times the layer's factor

  // The rows of W, [count, *W.shape], by those of y, [count, samples, rows of W], or undefined for zeros.
  at::Tensor rows(const at::Tensor& cotangents) const;
};

// None unless the tensor at `slot` is the weight of one linear layer, and used nowhere else.
std::optional<KnownWeight> find_known_weight(const tape::Tape& tape, tape::Slot slot, bool create_graph);

} // namespace highgrad::engine
