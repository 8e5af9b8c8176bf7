#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "engine/compressed.h"
#include "engine/execute.h"

namespace highgrad::engine {

// Results that are not the dense Jacobians: sparse ones, and those of independent samples. One result an input, reached
// or not, is appended.
struct SpecialProblem {
  const OutputProblem& reached;
  const std::vector<at::Tensor>& inputs; // all
  const std::vector<bool>& is_reached;
  const JacobianOptions& options;
  Progress& progress;

  // Tells how many passes the output takes instead of one a row.
  void expect_passes(int64_t passes) const {
    progress.expect(progress.total() + passes - reached.output.numel());
  }
};

// options.layout: sparse matrices [output.numel(), input.numel()], by their structure. Without one, null, they come
// from some dense rows at a time.
void append_sparse_jacobians(
    const SpecialProblem& problem,
    const structure::Compression* structure,
    std::vector<at::Tensor>& results);

// options.batch_dims = k: the first k axes of output and inputs count the same samples, which do not mix. Each result
// has the shape batch + rest of output.shape + rest of input.shape. Raises, naming the Node, if samples do mix, or if
// that cannot be ruled out.
void append_batch_jacobians(const SpecialProblem& problem, std::vector<at::Tensor>& results);

// Raises unless the first `batch_dims` axes of all tensors have the same sizes.
void check_batch_dims(
    const std::string& caller,
    int64_t batch_dims,
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs);

} // namespace highgrad::engine
