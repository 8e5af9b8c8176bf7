// Derivatives of the ops. assemble_rows is linear: its backward hands every block its own rows, by views.

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/function.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>

#include "ops/assemble_rows.h"
#include "ops/autograd/record.h"
#include "ops/seed_basis.h"

namespace highgrad::ops {
namespace {

using torch::autograd::variable_list;

at::Tensor seed_basis_autograd(const at::Tensor& like, c10::SymInt rows, c10::SymInt first_row) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return seed_basis(like, std::move(rows), std::move(first_row));
}

struct AssembleRowsBackward : public torch::autograd::Node {
  // Of the blocks that are there: where their rows start, how many there are, and the block's dtype.
  struct Slice {
    c10::SymInt first_row;
    c10::SymInt rows;
    at::ScalarType dtype;
  };
  std::vector<Slice> slices;
  // [all rows, *like.shape]
  std::vector<c10::SymInt> rows_shape;

  std::string name() const override {
    return "AssembleRowsBackward";
  }

  variable_list apply(variable_list&& grads) override {
    variable_list block_grads(slices.size());
    if (grads[0].defined()) {
      const at::Tensor rows = grads[0].reshape_symint(rows_shape);
      for (const auto k : c10::irange(slices.size())) {
        if (task_should_compute_output(k)) {
          block_grads[k] = rows.narrow_symint(0, slices[k].first_row, slices[k].rows).to(slices[k].dtype);
        }
      }
    }
    return block_grads;
  }
};

at::Tensor assemble_rows_autograd(
    const OptionalTensorList& blocks,
    c10::SymIntArrayRef row_counts,
    c10::SymIntArrayRef output_shape,
    const at::Tensor& like) {
  check_row_counts(blocks, row_counts);
  variable_list present;
  std::vector<AssembleRowsBackward::Slice> slices;
  c10::SymInt first_row = 0;
  for (const auto k : c10::irange(blocks.size())) {
    const std::optional<at::Tensor> block = blocks.get(k);
    if (block.has_value()) {
      slices.push_back({first_row, row_counts[k], block->scalar_type()});
      present.push_back(*block);
    }
    first_row = first_row + row_counts[k];
  }
  const auto fill = [&](AssembleRowsBackward& node) {
    node.slices = std::move(slices);
    node.rows_shape = {first_row};
    node.rows_shape.insert(node.rows_shape.end(), like.sym_sizes().begin(), like.sym_sizes().end());
  };
  at::Tensor result = record<AssembleRowsBackward>(at::TensorList(present), fill, [&](at::TensorList) {
    return assemble_rows(blocks, row_counts, output_shape, like);
  });
  if (std::any_of(present.begin(), present.end(), has_tangent)) {
    OptionalTensorList tangents;
    for (const auto k : c10::irange(blocks.size())) {
      const std::optional<at::Tensor> block = blocks.get(k);
      const bool moves = block.has_value() && has_tangent(*block);
      tangents.push_back(moves ? std::optional<at::Tensor>(block->_fw_grad(/*level=*/0)) : std::nullopt);
    }
    const at::Tensor tangent = assemble_rows(tangents, row_counts, output_shape, like);
    result._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
  }
  return result;
}

void assemble_rows_autograd_(const at::Tensor& rows, const std::optional<at::Tensor>& block) {
  TORCH_CHECK(
      !torch::autograd::compute_requires_grad(rows, block) && !has_tangent(rows) &&
          !(block.has_value() && has_tangent(*block)),
      "assemble_rows_: expected tensors that do not require grad and have no tangent, since it is not differentiable; "
      "assemble_rows is");
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    assemble_rows_(rows, block);
  }
  // So that a graph that saved `rows` notices the change.
  rows.unsafeGetTensorImpl()->bump_version();
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, Autograd, m) {
  m.impl("seed_basis", TORCH_FN(highgrad::ops::seed_basis_autograd));
  m.impl("assemble_rows", TORCH_FN(highgrad::ops::assemble_rows_autograd));
  m.impl("assemble_rows_", TORCH_FN(highgrad::ops::assemble_rows_autograd_));
}
