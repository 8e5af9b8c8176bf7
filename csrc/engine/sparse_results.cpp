#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/sparse_compressed_tensor.h>
#include <ATen/ops/sparse_coo_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/special_results.h"
#include "ops/decompress.h"
#include "structure/passes.h"

namespace highgrad::engine {
namespace {

// Of a dense Jacobian whose structure is not known, at most so many elements are held at once.
constexpr int64_t kDenseElements = int64_t{1} << 24;

// Elements [first, first + count) of the output.
at::Tensor part_of(const at::Tensor& output, int64_t first, int64_t count) {
  const at::AutoGradMode grad_mode(true);
  return output.reshape({-1}).narrow(0, first, count);
}

// Without known structure: some rows at a time, of which the nonzeros are kept.
at::Tensor sparse_from_rows(const SpecialProblem& problem, const at::Tensor& input) {
  const int64_t rows = problem.reached.output.numel();
  const int64_t columns = input.numel();
  const int64_t step = std::max<int64_t>(1, kDenseElements / std::max<int64_t>(columns, 1));
  JacobianOptions options = problem.options;
  options.layout = at::kStrided;
  options.use_structure = false;
  options.retain_graph = true;
  options.plans.clear();
  options.after_sweep = [](int64_t, int64_t) {};
  std::vector<at::Tensor> row_of, column_of, values;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    const at::Tensor part =
        full_jacobian({part_of(problem.reached.output, first, count)}, {input}, options, std::nullopt)[0];
    const at::Tensor place = at::nonzero(part.detach().reshape({-1})).squeeze(1);
    values.push_back(ops::decompress(part, place, std::nullopt, c10::SymIntArrayRef(c10::SymInt(place.numel()))));
    row_of.push_back(place.floor_divide(std::max<int64_t>(columns, 1)).add_(first));
    column_of.push_back(place.remainder(std::max<int64_t>(columns, 1)));
    problem.after_passes(count);
  }
  const at::Tensor all_values = values.empty() ? at::zeros({0}, input.options()) : at::cat(values);
  const at::TensorOptions index = all_values.options().dtype(at::kLong);
  const at::Tensor places =
      values.empty() ? at::zeros({2, 0}, index) : at::stack({at::cat(row_of), at::cat(column_of)});
  if (problem.options.layout == at::kSparseCsr) {
    const at::Tensor counts =
        at::zeros({rows + 1}, index).index_add_(0, places[0].add(1), places[1].new_ones(places.size(1)));
    return at::sparse_compressed_tensor(
        counts.cumsum(0),
        places[1].contiguous(),
        all_values,
        {rows, columns},
        all_values.options().layout(at::kSparseCsr));
  }
  return at::sparse_coo_tensor(places, all_values, {rows, columns}, all_values.options().layout(at::kSparse), true);
}

} // namespace

void append_sparse_jacobians(
    const SpecialProblem& problem,
    const structure::Compression* structure,
    std::vector<at::Tensor>& results) {
  std::optional<std::vector<CompressedBlock>> blocks;
  if (structure != nullptr) {
    problem.expect_passes(structure::num_passes(*structure));
    blocks = compute_compressed(
        problem.reached, *structure, {problem.options.create_graph, problem.options.chunk_size, problem.after_passes});
  }
  size_t next = 0;
  for (const auto j : c10::irange(problem.inputs.size())) {
    const at::Tensor& input = problem.inputs[j];
    if (problem.is_reached[j] && blocks.has_value()) {
      results.push_back(sparse_matrix((*blocks)[next++], problem.reached.output, input, problem.options.layout));
    } else {
      results.push_back(sparse_from_rows(problem, input));
    }
  }
}

} // namespace highgrad::engine
