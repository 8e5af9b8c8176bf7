#pragma once

#include <torch/csrc/autograd/edge.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "tape/tape.h"
#include "taylor/jet.h"
#include "taylor/local_series.h"

namespace highgrad::taylor {

// Note [Fused functions]
// exp(-x * x), or x * tanh(x), is several Nodes, and a function of one tensor, element by element, all the same. So its
// own series at each element, along one direction, is found by the rules of its Nodes, and all directions share it: see
// apply_function. What is recorded is one Node from the jet of x to that of the function.

// Nodes that are one function of the tensor at `base`, from there to the last; nothing else uses those between.
struct FusedFunction {
  tape::Slot base;
  std::vector<torch::autograd::Edge> nodes; // which they keep alive
  // By node: where its inputs come from, as the position of an earlier node plus 1; 0 is the base, -1 no jet.
  std::vector<std::vector<int64_t>> inputs;
};

// The functions on a tape, by the position of their last Node. is_recorded: whether other gradients may be asked of the
// result, as those by parameters, which such a function would hide.
std::map<int64_t, std::shared_ptr<const FusedFunction>> find_fused_functions(
    const tape::Tape& tape,
    at::ScalarType dtype,
    bool is_recorded);

// The jet of the function of x, Node by Node.
Jet apply_nodes(const FusedFunction& function, const Frame& frame, const Jet& x);

// As one PointwiseFunction, whose anchor gives no more than shape and dtype.
std::shared_ptr<const PointwiseFunction> as_pointwise(const FusedFunction& function);

} // namespace highgrad::taylor
