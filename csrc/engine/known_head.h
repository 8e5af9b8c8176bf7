#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "engine/endpoint.h"
#include "tape/tape.h"

namespace highgrad::engine {

// Note [The identity is not multiplied]
// A sweep over all rows starts with the identity. Where the output is a linear layer, or elementwise functions and
// views of one, the product of those Nodes with the identity is known: the weight, each row scaled by an element of the
// derivative of what follows. Sweeps start below, with these rows, and neither the identity nor its product with the
// weight is ever computed.
struct KnownHead {
  Endpoint below;
  at::Tensor rows; // [root.like.numel(), *below.like.shape]
};

// None where the tape, which starts at `root`, does not begin like that. Without grad mode `rows` may share memory with
// a weight.
std::optional<KnownHead> find_known_head(const Endpoint& root, const tape::Tape& tape, bool create_graph);

} // namespace highgrad::engine
