// Derivatives of the ops. assemble_rows is linear: its backward hands every block its own rows, by views.

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/assemble_rows.h"
#include "ops/seed_basis.h"

namespace highgrad::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor seed_basis_autograd(const at::Tensor& like, c10::SymInt rows, c10::SymInt first_row) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return seed_basis(like, std::move(rows), std::move(first_row));
}

struct AssembleRows : public torch::autograd::Function<AssembleRows> {
  // `defined` holds the blocks that are there; present[k] says whether block k is one of them.
  static at::Tensor forward(
      AutogradContext* ctx,
      at::TensorList defined,
      std::vector<bool> present,
      c10::SymIntArrayRef row_counts,
      c10::SymIntArrayRef output_shape,
      const at::Tensor& like) {
    OptionalTensorList blocks;
    blocks.reserve(present.size());
    std::vector<c10::SymInt> first_rows, counts;
    std::vector<int64_t> dtypes;
    c10::SymInt row = 0;
    size_t next = 0;
    for (const auto k : c10::irange(present.size())) {
      if (present[k]) {
        const at::Tensor& block = defined[next++];
        first_rows.push_back(row);
        counts.push_back(row_counts[k]);
        dtypes.push_back(static_cast<int64_t>(block.scalar_type()));
        blocks.push_back(block);
      } else {
        blocks.push_back(std::nullopt);
      }
      row += row_counts[k];
    }
    ctx->saved_data["first_rows"] = std::move(first_rows);
    ctx->saved_data["row_counts"] = std::move(counts);
    ctx->saved_data["rows"] = std::move(row);
    ctx->saved_data["dtypes"] = std::move(dtypes);
    ctx->saved_data["input_shape"] = like.sym_sizes().vec();
    at::AutoDispatchBelowADInplaceOrView guard;
    return assemble_rows(blocks, row_counts, output_shape, like);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grad_outputs) {
    const auto first_rows = ctx->saved_data["first_rows"].toSymIntVector();
    const auto counts = ctx->saved_data["row_counts"].toSymIntVector();
    const auto dtypes = ctx->saved_data["dtypes"].toIntVector();
    variable_list grads(first_rows.size());
    if (grad_outputs[0].defined()) {
      std::vector<c10::SymInt> shape{ctx->saved_data["rows"].toSymInt()};
      const auto input_shape = ctx->saved_data["input_shape"].toSymIntVector();
      shape.insert(shape.end(), input_shape.begin(), input_shape.end());
      const at::Tensor rows = grad_outputs[0].reshape_symint(shape);
      for (const auto k : c10::irange(grads.size())) {
        grads[k] = rows.narrow_symint(0, first_rows[k], counts[k]).to(static_cast<at::ScalarType>(dtypes[k]));
      }
    }
    grads.resize(grads.size() + 4); // the four arguments behind the blocks
    return grads;
  }
};

at::Tensor assemble_rows_autograd(
    const OptionalTensorList& blocks,
    c10::SymIntArrayRef row_counts,
    c10::SymIntArrayRef output_shape,
    const at::Tensor& like) {
  std::vector<at::Tensor> defined;
  std::vector<bool> present;
  defined.reserve(blocks.size());
  present.reserve(blocks.size());
  for (const auto k : c10::irange(blocks.size())) {
    const std::optional<at::Tensor> block = blocks.get(k);
    present.push_back(block.has_value() && block->defined());
    if (present.back()) {
      defined.push_back(*block);
    }
  }
  return AssembleRows::apply(at::TensorList(defined), present, row_counts, output_shape, like.detach());
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, Autograd, m) {
  m.impl("seed_basis", TORCH_FN(highgrad::ops::seed_basis_autograd));
  m.impl("assemble_rows", TORCH_FN(highgrad::ops::assemble_rows_autograd));
  m.impl("assemble_rows_", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(highgrad_ext, ADInplaceOrView, m) {
  m.impl("assemble_rows_", torch::autograd::autogradNotImplementedInplaceOrViewFallback());
}
