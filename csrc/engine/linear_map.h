#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/output_problem.h"
#include "tape/tape.h"
#include "vjp/program.h"

namespace highgrad::engine {

// A matrix of which sweeps compute products from the left. Its rows are the elements of all roots, one after the other;
// its columns are those behind all edges.
struct LinearMap {
  std::vector<at::Tensor> roots; // undefined where all rows are zero
  std::vector<int64_t> rows; // of each root
  torch::autograd::edge_list edges;
  std::vector<int64_t> columns; // of each edge
  int64_t peak_bytes_per_row = 0;
  tape::Distrust distrust = tape::Distrust::kNone;
  // From the root to the edges, and perhaps beyond; null where there are several roots. Must outlive the map.
  const tape::Tape* tape = nullptr;

  // The edges of the roots that are defined, in order.
  torch::autograd::edge_list root_edges() const;
  // Dtype and device of the roots.
  at::TensorOptions options() const;
};

// Sweeps over a map with one root, recorded if grad mode is on, where they need no engine.
std::optional<vjp::Program> compile(const LinearMap& map);

// The Jacobian itself.
LinearMap reverse_map(const OutputProblem& problem);

// The transposed Jacobian, whose rows are the elements of all inputs; see Note [Forward mode by double backward].
struct ForwardMap {
  LinearMap map;
  at::Tensor cotangent; // keeps the graph's leaf
  std::vector<tape::Tape> tapes; // from each root that is defined
  // Whether NaN probes of it may be trusted, and whether its pattern is the same for all values.
  bool keeps_nan = true;
  bool is_global = true;
};

// None where forward mode has an obstacle, or the graph no double backward.
std::optional<ForwardMap> forward_map(const OutputProblem& problem);

} // namespace highgrad::engine
