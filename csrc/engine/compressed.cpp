#include "engine/compressed.h"

#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/sparse_compressed_tensor.h>
#include <ATen/ops/sparse_coo_tensor.h>
#include <ATen/ops/stack.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "engine/batched_vjp.h"
#include "engine/failure.h"
#include "ops/decompress.h"
#include "plan/chunking.h"

namespace highgrad::engine {
namespace {

using structure::Compression;
using structure::SparsityPattern;

at::Tensor to_tensor(const std::vector<int64_t>& values) {
  // from_blob does not own, and takes no const pointer: the copy does and is not written to before.
  return at::from_blob(const_cast<int64_t*>(values.data()), {static_cast<int64_t>(values.size())}, at::kLong).clone();
}

// Shapes with `count` of something in front.
std::vector<int64_t> stacked_shape(int64_t count, const at::Tensor& tensor) {
  std::vector<int64_t> shape{count};
  shape.insert(shape.end(), tensor.sizes().begin(), tensor.sizes().end());
  return shape;
}

// Rows [first, first + count) of the matrix whose row c sums the unit vectors of colour c.
at::Tensor color_seeds(const at::Tensor& output, const at::Tensor& colors, int64_t first, int64_t count) {
  const at::Tensor wanted = at::arange(first, first + count, colors.options()).unsqueeze(1);
  return at::eq(colors.unsqueeze(0), wanted).to(output.scalar_type()).view(stacked_shape(count, output));
}

// All rows of the compressed Jacobian by each input: [num_colors, *input.shape], or undefined for zeros.
std::vector<at::Tensor> sweep_colors(
    const CompressedProblem& problem,
    const structure::Coloring& coloring,
    const CompressedSweeps& sweeps) {
  const at::Tensor& output = problem.output;
  const torch::autograd::edge_list root{torch::autograd::impl::gradient_edge(output)};
  const SweepOptions options{/*keep_graph=*/true, sweeps.create_graph};
  const int64_t num_colors = coloring.num_colors;
  std::vector<at::Tensor> rows;
  if (num_colors == 1) {
    rows = single_vjp(root, {at::ones(output.sizes(), output.options())}, problem.edges, options);
    sweeps.after_passes(1);
    return rows;
  }
  const at::Tensor colors = to_tensor(coloring.colors).to(output.device());
  const int64_t chunk_size = sweeps.chunk_size.has_value()
      ? *sweeps.chunk_size
      : plan::automatic_chunk_size(num_colors, problem.tape.peak_bytes_per_row, output.device());
  std::vector<std::vector<at::Tensor>> chunks(problem.inputs.size());
  for (int64_t first = 0; first < num_colors; first += chunk_size) {
    const int64_t count = std::min(chunk_size, num_colors - first);
    at::Tensor seeds = color_seeds(output, colors, first, count);
    rows = count == 1 ? single_vjp(root, {seeds.squeeze(0)}, problem.edges, options)
                      : batched_vjp(root, {seeds}, problem.edges, options);
    sweeps.after_passes(count);
    for (const auto j : c10::irange(rows.size())) {
      if (rows[j].defined()) {
        chunks[j].push_back(std::move(rows[j]));
      }
    }
  }
  // Whether a cotangent arrives at an input is the same for all chunks.
  std::vector<at::Tensor> all;
  for (const auto& of_input : chunks) {
    all.push_back(of_input.empty() ? at::Tensor() : of_input.size() == 1 ? of_input[0] : at::cat(of_input));
  }
  return all;
}

// The columns [first, first + columns) of a pattern, and where their entries lie in the compressed block of that input.
CompressedBlock entries_of_columns(const Compression& structure, int64_t first, int64_t columns) {
  const SparsityPattern& pattern = structure.pattern;
  const bool is_whole = first == 0 && columns == pattern.columns;
  std::vector<int64_t> source;
  std::vector<int64_t> row_ptr{0};
  std::vector<int64_t> col_ind;
  source.reserve(pattern.nnz());
  for (const auto row : c10::irange(pattern.rows)) {
    const int64_t color = structure.coloring.colors[row];
    auto begin = pattern.col_ind.begin() + pattern.row_ptr[row];
    auto end = pattern.col_ind.begin() + pattern.row_ptr[row + 1];
    if (!is_whole) {
      begin = std::lower_bound(begin, end, first);
      end = std::lower_bound(begin, end, first + columns);
    }
    for (auto column = begin; column != end; ++column) {
      source.push_back(color * columns + *column - first);
      if (!is_whole) {
        col_ind.push_back(*column - first);
      }
    }
    row_ptr.push_back(static_cast<int64_t>(source.size()));
  }
  return {{}, to_tensor(source), to_tensor(row_ptr), to_tensor(is_whole ? pattern.col_ind : col_ind)};
}

// The row of every entry.
at::Tensor row_indices(const CompressedBlock& block) {
  return at::repeat_interleave(block.row_ptr.diff(), std::optional<int64_t>(block.col_ind.numel()));
}

} // namespace

std::optional<std::vector<CompressedBlock>> compute_compressed(
    const CompressedProblem& problem,
    const Compression& structure,
    const CompressedSweeps& sweeps) {
  std::vector<at::Tensor> rows;
  try {
    rows = sweep_colors(problem, structure.coloring, sweeps);
  } catch (...) {
    const std::exception_ptr exception = std::current_exception();
    if (judge_failure(exception) == Failure::kInterrupt) {
      std::rethrow_exception(exception);
    }
    return std::nullopt;
  }
  std::vector<CompressedBlock> blocks;
  int64_t first_column = 0;
  for (const auto j : c10::irange(problem.inputs.size())) {
    const int64_t columns = problem.inputs[j].numel();
    blocks.push_back(entries_of_columns(structure, first_column, columns));
    blocks.back().compressed = std::move(rows[j]);
    first_column += columns;
  }
  return blocks;
}

at::Tensor dense_rows(const CompressedBlock& block, const at::Tensor& output, const at::Tensor& input) {
  const std::vector<int64_t> shape = stacked_shape(output.numel(), input);
  if (!block.compressed.defined()) {
    return {};
  }
  const at::Tensor target = row_indices(block).mul_(input.numel()).add_(block.col_ind);
  return ops::decompress(
      block.compressed,
      block.source.to(block.compressed.device()),
      target.to(block.compressed.device()),
      c10::fromIntArrayRefSlow(shape));
}

bool run_compressed(
    const CompressedProblem& problem,
    const std::vector<JacobianBlock*>& blocks,
    const CompressedSweeps& sweeps,
    const std::function<void(int64_t)>& expect_passes) {
  const auto structure = find_structure(problem, Effort::kSmall);
  if (structure == nullptr) {
    return false;
  }
  expect_passes(structure->coloring.num_colors);
  const auto computed = compute_compressed(problem, *structure, sweeps);
  if (!computed.has_value()) {
    expect_passes(problem.output.numel());
    return false;
  }
  for (const auto j : c10::irange(blocks.size())) {
    blocks[j]->append(problem.output.numel(), dense_rows((*computed)[j], problem.output, problem.inputs[j]));
  }
  return true;
}

at::Tensor sparse_matrix(
    const CompressedBlock& block,
    const at::Tensor& output,
    const at::Tensor& input,
    at::Layout layout) {
  const int64_t nnz = block.col_ind.numel();
  const std::vector<int64_t> shape{output.numel(), input.numel()};
  const at::Device device = input.device();
  const at::Tensor values = block.compressed.defined()
      ? ops::decompress(
            block.compressed, block.source.to(device), std::nullopt, c10::SymIntArrayRef(c10::SymInt(nnz)))
            .to(input.scalar_type())
      : input.new_zeros({nnz});
  const at::TensorOptions options = values.options();
  if (layout == at::kSparseCsr) {
    return at::sparse_compressed_tensor(
        block.row_ptr.to(device), block.col_ind.to(device), values, shape, options.layout(at::kSparseCsr));
  }
  return at::sparse_coo_tensor(
      at::stack({row_indices(block), block.col_ind}).to(device), values, shape, options.layout(at::kSparse), true);
}

} // namespace highgrad::engine
