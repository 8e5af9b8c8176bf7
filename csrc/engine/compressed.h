#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/jacobian_block.h"
#include "engine/linear_map.h"
#include "engine/options.h"
#include "structure/compression.h"

namespace highgrad::engine {

// How much time finding the structure may take.
enum class Effort {
  kSmall, // next to nothing of what the dense Jacobian takes
  kThorough, // worth it even if the dense Jacobian is cheap: a plan is kept, or the result is sparse
};

// The structure of the Jacobian, or null where it is dense, or where anything on the tape makes that doubtful: hooks,
// custom Functions, Nodes that are not in structure's table, anomaly mode, tensors without data.
std::shared_ptr<const structure::Compression> find_structure(const OutputProblem& problem, Effort effort);

// A kept structure if it holds for this tape, a new one otherwise. Raises, naming `caller`, if the tape is another.
std::shared_ptr<const structure::Compression> renew_structure(
    const std::string& caller,
    const OutputProblem& problem,
    std::shared_ptr<const structure::Compression> kept);

struct CompressedSweeps {
  const JacobianOptions& options;
  Progress& progress;
};

// The Jacobian of the output by one input, from few passes: where entry k lies, and its value.
struct CompressedBlock {
  at::Tensor compressed; // undefined if all entries are zero; rows, then columns, of every colour
  structure::EntryTensors entries; // of the structure, which others use
};

// The sum of the map's rows of every colour, by each of its edges: [num_colors, *shape there] or undefined for zeros.
// Rows of a negative colour are left out.
std::vector<at::Tensor> sweep_colors(
    const LinearMap& map,
    const structure::Coloring& coloring,
    const CompressedSweeps& sweeps);

// One block an input. None if columns are to be computed, and forward mode has an obstacle or gives an entry that is
// not finite.
std::optional<std::vector<CompressedBlock>> compute_compressed(
    const OutputProblem& problem,
    const structure::Compression& structure,
    const CompressedSweeps& sweeps);

// The block as rows [output.numel(), *input.shape], differentiable.
at::Tensor dense_rows(const CompressedBlock& block, const at::Tensor& output, const at::Tensor& input);

// The block as a sparse matrix [output.numel(), input.numel()] of this layout (CSR or COO), differentiable.
at::Tensor sparse_matrix(
    const CompressedBlock& block,
    const at::Tensor& output,
    const at::Tensor& input,
    at::Layout layout);

// Fills `blocks` with the Jacobians, one an input. Returns false, with nothing in `blocks`, if columns are to be
// computed and forward mode does not serve.
bool run_compressed(
    const OutputProblem& problem,
    const structure::Compression& structure,
    const std::vector<JacobianBlock*>& blocks,
    const CompressedSweeps& sweeps);

} // namespace highgrad::engine
