#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/batched_vjp.h"
#include "engine/endpoint.h"
#include "engine/linear_map.h"
#include "engine/options.h"
#include "engine/split_tape.h"
#include "tape/tape.h"
#include "vjp/program.h"

namespace highgrad::engine {

// The cotangents of rows [first, first + count), of each root: shape [count, *root's shape].
using Seeds = std::function<std::vector<at::Tensor>(int64_t first, int64_t count)>;

// Rows of the identity, of one root; with `batch_dims`, of the rest of its shape, the same for all samples, which share
// their memory.
Seeds basis_of(const at::Tensor& like, int64_t batch_dims = 0);

// A tensor of the shape of one sample, without values; `tensor` itself where there are no samples.
at::Tensor like_one_sample(const at::Tensor& tensor, int64_t batch_dims);

// `matrix`, whose rows have the shape of the one root.
Seeds rows_of(at::Tensor matrix);

// Vector-Jacobian products of any number of rows, in as few batched sweeps as fit the memory: smaller ones where memory
// runs out. Nodes that torch.vmap cannot run, or is known to get wrong, are run row by row; so is all of the tape where
// that does not help.
class RowSweeps {
 public:
  // From all roots of a map that are defined; keeps the graph. The map's tape must outlive the object.
  RowSweeps(const LinearMap& map, int64_t num_rows, Seeds seeds, const JacobianOptions& options);

  // `tape` is one on which `root` and the inputs are, and must outlive the object.
  RowSweeps(
      Endpoint root,
      int64_t num_rows,
      Seeds seeds,
      const tape::Tape& tape,
      const JacobianOptions& options,
      bool keep_graph);

  // Hands over (count, the next `count` rows of each input: [count, *input.shape] in any strides, or undefined for
  // zeros), in order.
  void run(
      const torch::autograd::edge_list& inputs,
      const std::function<void(int64_t, std::vector<at::Tensor>)>& take,
      Progress& progress);

 private:
  void choose_chunk_size(int64_t bytes_per_row, at::Device device);
  void compile(const torch::autograd::edge_list& inputs);
  int64_t most_rows() const;
  std::vector<at::Tensor> sweep(int64_t row, int64_t count, const torch::autograd::edge_list& inputs);
  bool try_batched(int64_t row, int64_t count, const torch::autograd::edge_list& inputs, std::vector<at::Tensor>& rows);
  [[noreturn]] void throw_out_of_memory(int64_t count) const;
  void warn_of_loops() const;

  const tape::Tape* tape_; // null for several roots
  tape::Distrust distrust_;
  torch::autograd::edge_list roots_;
  int64_t num_rows_;
  Seeds seeds_;
  const JacobianOptions& options_;
  SweepOptions sweep_;
  int64_t chunk_size_;
  std::optional<vjp::Program> program_; // where neither engine nor vmap is needed
  std::unique_ptr<SplitTape> split_; // where Nodes go row by row
  bool fell_back_ = false; // to rows, with all of the tape
  std::set<std::string> looped_ops_;
};

} // namespace highgrad::engine
