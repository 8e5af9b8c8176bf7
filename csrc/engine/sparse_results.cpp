#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
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

// The nonzeros of a matrix, found some rows at a time; of one that is differentiable again all entries, since the
// derivative of a zero need not be zero.
class Nonzeros {
 public:
  Nonzeros(int64_t rows, at::Tensor input) : rows_(rows), columns_(input.numel()), input_(std::move(input)) {}

  // The rows from `first` on, as a dense Jacobian.
  void append(int64_t first, const at::Tensor& part) {
    const at::Tensor place = part.requires_grad() ? at::arange(part.numel(), part.options().dtype(at::kLong))
                                                  : at::nonzero(part.reshape({-1})).squeeze(1);
    values_.push_back(ops::decompress(part, place, std::nullopt, c10::SymIntArrayRef(c10::SymInt(place.numel()))));
    row_of_.push_back(place.floor_divide(std::max<int64_t>(columns_, 1)).add_(first));
    column_of_.push_back(place.remainder(std::max<int64_t>(columns_, 1)));
  }

  at::Tensor matrix(at::Layout layout) const {
    const at::Tensor values = values_.empty() ? at::zeros({0}, input_.options()) : at::cat(values_);
    const at::TensorOptions index = values.options().dtype(at::kLong);
    const at::Tensor places =
        values_.empty() ? at::zeros({2, 0}, index) : at::stack({at::cat(row_of_), at::cat(column_of_)});
    if (layout == at::kSparseCsr) {
      const at::Tensor counts =
          at::zeros({rows_ + 1}, index).index_add_(0, places[0].add(1), places[1].new_ones(places.size(1)));
      return at::sparse_compressed_tensor(
          counts.cumsum(0), places[1].contiguous(), values, {rows_, columns_}, values.options().layout(at::kSparseCsr));
    }
    return at::sparse_coo_tensor(places, values, {rows_, columns_}, values.options().layout(at::kSparse), true);
  }

 private:
  int64_t rows_;
  int64_t columns_;
  at::Tensor input_;
  std::vector<at::Tensor> row_of_, column_of_, values_;
};

// Without known structure: some rows at a time, of which the nonzeros are kept. One matrix a reached input.
std::vector<at::Tensor> sparse_from_rows(const SpecialProblem& problem) {
  const int64_t rows = problem.reached.output.numel();
  int64_t columns = 0;
  std::vector<Nonzeros> found;
  for (const at::Tensor& input : problem.reached.inputs) {
    columns += input.numel();
    found.emplace_back(rows, input);
  }
  const int64_t step = std::max<int64_t>(1, kDenseElements / std::max<int64_t>(columns, 1));
  JacobianOptions options = problem.options;
  options.layout = at::kStrided;
  options.use_structure = false;
  options.retain_graph = true;
  options.plans.clear();
  options.after_sweep = [](int64_t, int64_t) {};
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    const std::vector<at::Tensor> parts =
        full_jacobian({part_of(problem.reached.output, first, count)}, problem.reached.inputs, options, std::nullopt);
    for (const auto j : c10::irange(found.size())) {
      found[j].append(first, parts[j]);
    }
    problem.progress.add(count);
  }
  std::vector<at::Tensor> matrices;
  for (const Nonzeros& of_input : found) {
    matrices.push_back(of_input.matrix(problem.options.layout));
  }
  return matrices;
}

} // namespace

void append_sparse_jacobians(
    const SpecialProblem& problem,
    const structure::Compression* structure,
    std::vector<at::Tensor>& results) {
  for (const at::Tensor& input : problem.inputs) {
    TORCH_CHECK(
        problem.options.layout != at::kSparseCsr || !problem.options.create_graph || !input.is_complex(),
        problem.options.caller,
        ": expected create_graph=False or layout=torch.sparse_coo for a complex wrt, of which torch's CSR tensors "
        "have no derivatives");
  }
  std::optional<std::vector<CompressedBlock>> blocks;
  if (structure != nullptr) {
    problem.expect_passes(structure::num_passes(*structure));
    blocks = compute_compressed(problem.reached, *structure, {problem.options, problem.progress});
  }
  std::vector<at::Tensor> matrices;
  if (blocks.has_value()) {
    for (const auto j : c10::irange(blocks->size())) {
      matrices.push_back(
          sparse_matrix((*blocks)[j], problem.reached.output, problem.reached.inputs[j], problem.options.layout));
    }
  } else if (!problem.reached.inputs.empty()) {
    matrices = sparse_from_rows(problem);
  }
  size_t next = 0;
  for (const auto j : c10::irange(problem.inputs.size())) {
    results.push_back(
        problem.is_reached[j]
            ? std::move(matrices[next++])
            : Nonzeros(problem.reached.output.numel(), problem.inputs[j]).matrix(problem.options.layout));
  }
}

} // namespace highgrad::engine
