#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/edge.h>

#include "tape/tape.h"

namespace highgrad::engine {

// A tensor that a sweep starts from or ends at. The user's tensor of an intermediate value is not needed: its place on
// the tape is enough.
struct Endpoint {
  torch::autograd::Edge edge;
  at::Tensor like; // of its shape, dtype and device, whatever its values
};

// Without an edge, if `tensor` has no graph.
Endpoint endpoint_of(const at::Tensor& tensor);

// Of a strided tensor whose sizes are numbers.
Endpoint endpoint_of(const tape::Tape& tape, tape::Slot slot);

} // namespace highgrad::engine
