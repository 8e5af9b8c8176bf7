#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "ops/assemble_rows.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/scalar_type.h"
#include "ops/joined_shape.h"
#include "ops/seed_basis.h"
#include "ops/strided_layout.h"

namespace highgrad::ops::cuda {
namespace {

at::Tensor seed_basis_cuda(const at::Tensor& like, int64_t rows, int64_t first_row) {
  check_seed_basis(like, rows, first_row);
  const ElementType type = element_type(like.scalar_type());
  const c10::cuda::CUDAGuard guard(like.device());
  at::Tensor basis = at::empty(joined_shape(rows, like.sizes()), like.options().layout(at::kStrided));
  launch_seed_basis(
      basis.mutable_data_ptr(), type, rows, like.numel(), first_row, c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return basis;
}

void assemble_rows_cuda_(const at::Tensor& rows, const std::optional<at::Tensor>& block) {
  check_assemble_rows_(rows, block);
  if (rows.numel() == 0) {
    return;
  }
  const c10::cuda::CUDAGuard guard(rows.device());
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  if (!block.has_value()) {
    C10_CUDA_CHECK(cudaMemsetAsync(rows.mutable_data_ptr(), 0, rows.nbytes(), stream));
    return;
  }
  const at::Tensor source = block->resolve_conj().resolve_neg();
  if (source.is_contiguous() && source.scalar_type() == rows.scalar_type()) {
    if (!source.is_alias_of(rows) || source.storage_offset() != rows.storage_offset()) {
      C10_CUDA_CHECK(cudaMemcpyAsync(
          rows.mutable_data_ptr(), source.const_data_ptr(), rows.nbytes(), cudaMemcpyDeviceToDevice, stream));
    }
    return;
  }
  launch_copy_block(
      rows.mutable_data_ptr(),
      element_type(rows.scalar_type()),
      source.const_data_ptr(),
      element_type(source.scalar_type()),
      coalesced_layout(source),
      rows.numel(),
      stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

} // namespace
} // namespace highgrad::ops::cuda

TORCH_LIBRARY_IMPL(highgrad_ext, CUDA, m) {
  m.impl("seed_basis", TORCH_FN(highgrad::ops::cuda::seed_basis_cuda));
  m.impl("assemble_rows_", TORCH_FN(highgrad::ops::cuda::assemble_rows_cuda_));
}
