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
#include "ops/joined_shape.h"
#include "plan/chunking.h"

namespace highgrad::engine {
namespace {

using ops::joined_shape;
using structure::Compression;
using structure::SparsityPattern;

at::Tensor to_tensor(const std::vector<int64_t>& values) {
  // from_blob does not own, and takes no const pointer: the copy does and is not written to before.
  return at::from_blob(const_cast<int64_t*>(values.data()), {static_cast<int64_t>(values.size())}, at::kLong).clone();
}

// Rows [first, first + count) of the matrix whose row c sums the unit vectors of colour c.
at::Tensor color_seeds(const at::Tensor& output, const at::Tensor& colors, int64_t first, int64_t count) {
  const at::Tensor wanted = at::arange(first, first + count, colors.options()).unsqueeze(1);
  return at::eq(colors.unsqueeze(0), wanted).to(output.scalar_type()).view(joined_shape(count, output.sizes()));
}

// One sweep of `count` colours; false, after which `chunk_size` is smaller, if it is to be tried again.
bool try_sweep(
    const CompressedProblem& problem,
    const at::Tensor& seeds,
    SweepOptions options,
    bool is_chunk_size_given,
    int64_t& chunk_size,
    std::vector<at::Tensor>& rows) {
  const torch::autograd::edge_list root{torch::autograd::impl::gradient_edge(problem.output)};
  if (seeds.size(0) == 1) {
    rows = single_vjp(root, {seeds.squeeze(0)}, problem.edges, options);
    return true;
  }
  std::exception_ptr exception;
  try {
    rows = batched_vjp(root, {seeds}, problem.edges, options);
    return true;
  } catch (...) {
    exception = std::current_exception();
  }
  const Failure failure = judge_failure(exception);
  if (failure == Failure::kInterrupt || (failure == Failure::kOutOfMemory && is_chunk_size_given)) {
    std::rethrow_exception(exception);
  }
  chunk_size = failure == Failure::kOutOfMemory ? (seeds.size(0) + 1) / 2 : 1;
  return false;
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

std::vector<at::Tensor> sweep_colors(
    const CompressedProblem& problem,
    const structure::Coloring& coloring,
    const CompressedSweeps& sweeps) {
  const at::Tensor& output = problem.output;
  const SweepOptions options{/*keep_graph=*/true, sweeps.create_graph};
  const int64_t num_colors = coloring.num_colors;
  int64_t chunk_size = sweeps.chunk_size.has_value()
      ? *sweeps.chunk_size
      : plan::automatic_chunk_size(num_colors, problem.tape.peak_bytes_per_row, output.device());
  if (problem.tape.distrust == tape::Distrust::kGraph && sweeps.create_graph) {
    chunk_size = 1;
  }
  const at::Tensor colors = num_colors == 1 ? at::Tensor() : to_tensor(coloring.colors).to(output.device());
  std::vector<std::vector<at::Tensor>> chunks(problem.inputs.size());
  for (int64_t first = 0; first < num_colors;) {
    const int64_t count = std::min(chunk_size, num_colors - first);
    const at::Tensor seeds = num_colors == 1 ? at::ones(joined_shape(1, output.sizes()), output.options())
                                             : color_seeds(output, colors, first, count);
    std::vector<at::Tensor> rows;
    if (!try_sweep(problem, seeds, options, sweeps.chunk_size.has_value(), chunk_size, rows)) {
      continue;
    }
    for (const auto j : c10::irange(rows.size())) {
      if (rows[j].defined()) {
        chunks[j].push_back(std::move(rows[j]));
      }
    }
    first += count;
    sweeps.after_passes(count);
  }
  // Whether a cotangent arrives at an input is the same for all chunks.
  std::vector<at::Tensor> all;
  for (const auto& of_input : chunks) {
    all.push_back(of_input.empty() ? at::Tensor() : of_input.size() == 1 ? of_input[0] : at::cat(of_input));
  }
  return all;
}

std::vector<CompressedBlock> compute_compressed(
    const CompressedProblem& problem,
    const Compression& structure,
    const CompressedSweeps& sweeps) {
  std::vector<at::Tensor> rows = sweep_colors(problem, structure.coloring, sweeps);
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
  const std::vector<int64_t> shape = joined_shape(output.numel(), input.sizes());
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
    const std::string& caller,
    const CompressedProblem& problem,
    const std::shared_ptr<const Compression>& kept,
    const std::vector<JacobianBlock*>& blocks,
    const CompressedSweeps& sweeps,
    const std::function<void(int64_t)>& expect_passes) {
  const auto structure =
      kept == nullptr ? find_structure(problem, Effort::kSmall) : renew_structure(caller, problem, kept);
  if (structure == nullptr) {
    return false;
  }
  expect_passes(structure->coloring.num_colors);
  const std::vector<CompressedBlock> computed = compute_compressed(problem, *structure, sweeps);
  for (const auto j : c10::irange(blocks.size())) {
    blocks[j]->append(problem.output.numel(), dense_rows(computed[j], problem.output, problem.inputs[j]));
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
      ? ops::decompress(block.compressed, block.source.to(device), std::nullopt, c10::SymIntArrayRef(c10::SymInt(nnz)))
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
