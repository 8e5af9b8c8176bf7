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
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "engine/failure.h"
#include "engine/forward_mode.h"
#include "engine/sweeps.h"
#include "ops/decompress.h"
#include "ops/joined_shape.h"
#include "structure/passes.h"
#include "tape/plain_tensor.h"
#include "tape/streams.h"

namespace highgrad::engine {
namespace {

using ops::joined_shape;
using structure::Coloring;
using structure::Compression;
using structure::SparsityPattern;

at::Tensor to_tensor(const std::vector<int64_t>& values) {
  // from_blob does not own, and takes no const pointer: the copy does and is not written to before.
  return at::from_blob(const_cast<int64_t*>(values.data()), {static_cast<int64_t>(values.size())}, at::kLong).clone();
}

// The colours on a device. Those that count up and start again, as of samples and of bands, are counted there: a copy
// cannot be captured in a CUDA graph.
at::Tensor colors_on(at::Device device, const Coloring& coloring) {
  const auto rows = static_cast<int64_t>(coloring.colors.size());
  int64_t next = 0;
  const bool count_up =
      coloring.num_colors > 0 && std::all_of(coloring.colors.begin(), coloring.colors.end(), [&](int64_t color) {
        return color == next++ % coloring.num_colors;
      });
  return count_up ? at::arange(rows, at::TensorOptions(device).dtype(at::kLong)).remainder_(coloring.num_colors)
                  : tape::copied_to(to_tensor(coloring.colors), device);
}

// For each root that is defined, rows [first, first + count) of the matrix whose row c sums the unit vectors of colour
// c. `colors` is undefined where all rows have colour 0.
std::vector<at::Tensor> color_seeds(const LinearMap& map, const at::Tensor& colors, int64_t first, int64_t count) {
  std::vector<at::Tensor> all;
  int64_t first_row = 0;
  for (const auto k : c10::irange(map.roots.size())) {
    const at::Tensor& root = map.roots[k];
    if (root.defined() && !colors.defined()) {
      all.push_back(at::ones(joined_shape(1, root.sizes()), root.options()));
    } else if (root.defined()) {
      const at::Tensor wanted = at::arange(first, first + count, colors.options()).unsqueeze(1);
      const at::Tensor mask = at::eq(colors.narrow(0, first_row, map.rows[k]).unsqueeze(0), wanted);
      all.push_back(mask.to(root.scalar_type()).view(joined_shape(count, root.sizes())));
    }
    first_row += map.rows[k];
  }
  return all;
}

// The columns [first, first + columns) of a pattern, and where their entries lie in the compressed block of that input.
structure::EntryTensors entries_of_columns(const Compression& structure, int64_t first, int64_t columns) {
  const SparsityPattern& pattern = structure.pattern;
  const bool is_whole = first == 0 && columns == pattern.columns;
  const Coloring passes = structure::column_passes(structure);
  const int64_t row_elements = structure.by_columns ? 0 : structure.coloring.num_colors * columns;
  std::vector<int64_t> source;
  std::vector<int64_t> row_ptr{0};
  std::vector<int64_t> col_ind;
  source.reserve(pattern.nnz());
  row_ptr.reserve(pattern.rows + 1);
  for (const auto row : c10::irange(pattern.rows)) {
    auto begin = pattern.col_ind.begin() + pattern.row_ptr[row];
    auto end = pattern.col_ind.begin() + pattern.row_ptr[row + 1];
    if (!is_whole) {
      begin = std::lower_bound(begin, end, first);
      end = std::lower_bound(begin, end, first + columns);
    }
    for (auto column = begin; column != end; ++column) {
      const int64_t pass = passes.num_colors == 0 ? -1 : passes.colors[*column];
      source.push_back(
          pass >= 0 ? row_elements + pass * pattern.rows + row
                    : structure.coloring.colors[row] * columns + *column - first);
      if (!is_whole) {
        col_ind.push_back(*column - first);
      }
    }
    row_ptr.push_back(static_cast<int64_t>(source.size()));
  }
  const at::Tensor pointers = to_tensor(row_ptr);
  const auto count = static_cast<int64_t>(source.size());
  return {
      first,
      columns,
      to_tensor(source),
      pointers,
      to_tensor(is_whole ? pattern.col_ind : col_ind),
      at::repeat_interleave(pointers.diff(), std::optional<int64_t>(count))};
}

// The same on a device, made once for each of its streams.
structure::EntryTensors kept_entries(const Compression& structure, int64_t first, int64_t columns, at::Device device) {
  structure::KeptEntryTensors& kept = *structure.kept_tensors;
  const std::optional<c10::Stream> stream = tape::current_stream(device);
  {
    const std::lock_guard lock(kept.mutex);
    for (const structure::EntryTensors& made : kept.all) {
      if (made.first_column == first && made.columns == columns && made.source.device() == device &&
          made.stream == stream) {
        return made;
      }
    }
  }
  structure::EntryTensors made = entries_of_columns(structure, first, columns);
  for (at::Tensor* tensor : {&made.source, &made.row_ptr, &made.col_ind, &made.row_ind}) {
    *tensor = tape::copied_to(*tensor, device);
  }
  made.stream = stream;
  if (tape::is_plain(made.source) && !made.source.is_inference()) {
    const std::lock_guard lock(kept.mutex);
    kept.all.push_back(made);
  }
  return made;
}

// The sums of the columns of each colour, [num_colors, output.numel()]; undefined where they cannot be computed.
at::Tensor sweep_columns(const OutputProblem& problem, const Coloring& passes, const CompressedSweeps& sweeps) {
  const std::optional<ForwardMap> forward = forward_map(problem);
  if (!forward.has_value()) {
    return {};
  }
  try {
    const at::Tensor columns = sweep_colors(forward->map, passes, sweeps)[0];
    if (!columns.defined() || !is_finite(columns)) {
      return {};
    }
    return columns.reshape({passes.num_colors, problem.output.numel()});
  } catch (...) {
    const std::exception_ptr exception = std::current_exception();
    if (judge_failure(exception) != Failure::kOther) {
      std::rethrow_exception(exception);
    }
    return {};
  }
}

} // namespace

std::vector<at::Tensor> sweep_colors(const LinearMap& map, const Coloring& coloring, const CompressedSweeps& sweeps) {
  const bool is_one = coloring.num_colors == 1 &&
      std::all_of(coloring.colors.begin(), coloring.colors.end(), [](int64_t c) { return c == 0; });
  const at::Tensor colors = is_one ? at::Tensor() : colors_on(map.options().device(), coloring);
  std::vector<std::vector<at::Tensor>> chunks(map.edges.size());
  RowSweeps(
      map,
      coloring.num_colors,
      [&](int64_t first, int64_t count) { return color_seeds(map, colors, first, count); },
      sweeps.options)
      .run(
          map.edges,
          [&](int64_t, std::vector<at::Tensor> rows) {
            for (const auto j : c10::irange(rows.size())) {
              if (rows[j].defined()) {
                chunks[j].push_back(std::move(rows[j]));
              }
            }
          },
          sweeps.progress);
  // Whether a cotangent arrives at an edge is the same for all chunks.
  std::vector<at::Tensor> all;
  for (const auto& of_edge : chunks) {
    all.push_back(of_edge.empty() ? at::Tensor() : of_edge.size() == 1 ? of_edge[0] : at::cat(of_edge));
  }
  return all;
}

std::optional<std::vector<CompressedBlock>> compute_compressed(
    const OutputProblem& problem,
    const Compression& structure,
    const CompressedSweeps& sweeps) {
  const Coloring passes = structure::column_passes(structure);
  at::Tensor columns;
  if (passes.num_colors > 0) {
    columns = sweep_columns(problem, passes, sweeps);
    if (!columns.defined()) {
      return std::nullopt;
    }
  }
  std::vector<at::Tensor> rows(problem.inputs.size());
  if (!structure.by_columns) {
    rows = sweep_colors(reverse_map(problem), structure.coloring, sweeps);
  }
  std::vector<CompressedBlock> blocks;
  int64_t first_column = 0;
  for (const auto j : c10::irange(problem.inputs.size())) {
    const at::Tensor& input = problem.inputs[j];
    blocks.push_back(
        {std::move(rows[j]), kept_entries(structure, first_column, input.numel(), problem.output.device())});
    if (columns.defined() && structure.by_columns) {
      blocks.back().compressed = columns;
    } else if (columns.defined()) {
      at::Tensor& compressed = blocks.back().compressed;
      if (!compressed.defined()) {
        compressed = at::zeros({structure.coloring.num_colors * input.numel()}, columns.options());
      }
      compressed = at::cat({compressed.reshape({-1}), columns.reshape({-1})});
    }
    first_column += input.numel();
  }
  return blocks;
}

at::Tensor dense_rows(const CompressedBlock& block, const at::Tensor& output, const at::Tensor& input) {
  const std::vector<int64_t> shape = joined_shape(output.numel(), input.sizes());
  if (!block.compressed.defined()) {
    return {};
  }
  const at::Tensor target = block.entries.row_ind.mul(input.numel()).add_(block.entries.col_ind);
  return ops::decompress(block.compressed, block.entries.source, target, c10::fromIntArrayRefSlow(shape));
}

bool run_compressed(
    const OutputProblem& problem,
    const Compression& structure,
    const std::vector<JacobianBlock*>& blocks,
    const CompressedSweeps& sweeps) {
  const auto computed = compute_compressed(problem, structure, sweeps);
  if (!computed.has_value()) {
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
  const structure::EntryTensors& entries = block.entries;
  const int64_t nnz = entries.col_ind.numel();
  const std::vector<int64_t> shape{output.numel(), input.numel()};
  const at::Tensor values = block.compressed.defined()
      ? ops::decompress(block.compressed, entries.source, std::nullopt, c10::SymIntArrayRef(c10::SymInt(nnz)))
            .to(input.scalar_type())
      : input.new_zeros({nnz});
  const at::TensorOptions options = values.options();
  if (layout == at::kSparseCsr) {
    return at::sparse_compressed_tensor(
        entries.row_ptr.clone(), entries.col_ind.clone(), values, shape, options.layout(at::kSparseCsr));
  }
  return at::sparse_coo_tensor(
      at::stack({entries.row_ind, entries.col_ind}), values, shape, options.layout(at::kSparse), true);
}

} // namespace highgrad::engine
