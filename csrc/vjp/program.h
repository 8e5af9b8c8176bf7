#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "tape/tape.h"
#include "vjp/rule.h"

namespace highgrad::vjp {

// Note [Sweeps without engine and vmap]
// On small tensors a sweep is bound by what happens around its products: torch's engine keeps a queue, a mutex and hash
// maps for each Node, and vmap dispatches every operator of a Node's backward three times. Where the backward of every
// Node of a tape is known (a table, like vmap's own), a sweep needs neither: the Nodes are run in the order of the
// tape, on cotangents with one more dimension in front, by the operators that the Node itself would call. What the
// Nodes have saved is unpacked, and the factors of elementwise Nodes are computed, once for all sweeps.
//
// Only engine and vmap can do the rest: hooks, custom Functions, hooks of saved tensors (checkpoint), complex or mixed
// dtypes, several devices, anomaly mode, transforms of torch.func. Of streams, see Note [Streams of the graph].
class Program {
 public:
  // Whether all Nodes of the tape are in the table, and nothing around them needs the engine: what they have saved, and
  // their shapes, may still do.
  static bool covers(const tape::Tape& tape);

  // None where a Node of the tape, or what surrounds it, has no rule. Raises what unpacking does of a freed graph.
  // Records for derivatives of the products if grad mode is on. Prepares less if it is to run for one row, once.
  static std::optional<Program> compile(const tape::Tape& tape, bool is_one_row = false);

  // Batches of vector-Jacobian products: `cotangents` is [B, *output.shape]; the entry of an input is
  // [B, *input.shape], in any strides, or undefined where no cotangent arrives.
  Cotangents run(at::Tensor cotangents) const;

 private:
  struct Target {
    int64_t slot; // position in the sweep's cotangents, or -1
    Shape shape; // of the cotangent that arrives there
  };

  struct Step {
    BatchedVjp vjp;
    int64_t first_slot; // of the cotangents that it takes
    int64_t num_slots;
    std::vector<Target> targets; // of those that it hands on
    std::vector<int64_t> captures; // inputs' positions in `inputs_`, whose cotangents this Node takes too
  };

  Program() = default;

  std::vector<Step> steps_;
  int64_t num_slots_ = 0;
  int64_t output_slot_ = 0;
  std::vector<int64_t> inputs_; // slots, or -1
};

// The product of one Node, for the midst of a sweep by torch's engine: from [B, *shape] of what it takes to that of the
// outputs that are `wanted`, in their shapes and dtypes. Null where it has no rule, or cotangents are not all alike.
BatchedVjp compile_alone(torch::autograd::Node& node, const std::vector<bool>& wanted);

} // namespace highgrad::vjp
