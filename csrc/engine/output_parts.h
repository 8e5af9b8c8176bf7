#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "engine/output_problem.h"
#include "tape/tape.h"

namespace highgrad::engine {

// Note [Outputs in parts]
// Residuals of equations and of what holds on a boundary are one vector, of several sets of points, and several of each
// point are flattened. Such a vector has no samples that could share sweeps; what it was made of has. The rows of a cat
// or stack along the first dimension are those of its tensors, one after another, so each of these may be an output of
// its own, with its own plan; and so may be what a view flattens. The sweeps then start below these Nodes.

// One of the tensors, as an output.
class OutputPart {
 public:
  // Of shape `shape`, at `edge`, if that is valid.
  OutputPart(const OutputProblem& whole, const torch::autograd::Edge& edge, const std::vector<int64_t>& shape);

  // By the inputs that it reaches. Refers to this.
  OutputProblem problem() const;

  // Of all inputs of the whole, whether the part reaches them.
  const std::vector<bool>& reached() const {
    return reached_.mask;
  }

 private:
  at::Tensor output_; // without values
  tape::Tape tape_;
  ReachedInputs reached_;
};

// The tensors that the output joins or flattens, in the order of its rows. None where it is not made so, or where
// something sees what it is made of before: an input, a hook; where no part has a first dimension of samples; or where
// there are more than `most`.
std::vector<OutputPart> parts_of(const OutputProblem& problem, int64_t most = std::numeric_limits<int64_t>::max());

} // namespace highgrad::engine
