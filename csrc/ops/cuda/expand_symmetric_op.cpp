#include "ops/expand_symmetric.h"

#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "ops/cuda/launch.h"
#include "ops/cuda/scalar_type.h"
#include "ops/symmetric_tiles.h"

namespace highgrad::ops::cuda {
namespace {

// Of the current device.
int64_t cache_bytes() {
  int bytes = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, c10::cuda::current_device()));
  return bytes;
}

// `threads` are those of one row.
SymmetricLayout layout_of(int64_t rows, int64_t threads, const SymmetricShape& shape, int64_t cache) {
  return {rows, plan_lanes(rows, threads), shape.packed, shape.full, shape.size, cache, shape.order};
}

at::Tensor expand_symmetric_cuda(const at::Tensor& packed, int64_t size, int64_t order) {
  const SymmetricShape shape = check_expand_symmetric(packed, size, order);
  const c10::cuda::CUDAGuard guard(packed.device());
  const at::Tensor source = packed.contiguous().resolve_conj().resolve_neg();
  const at::Tensor result = at::empty({packed.size(0), shape.full}, packed.options());
  if (result.numel() == 0) {
    return result;
  }
  if (shape.order <= 1) {
    return result.copy_(source);
  }
  const auto element_size = static_cast<int64_t>(result.element_size());
  const int64_t cache = cache_bytes();
  const int64_t threads = expand_threads(shape.size, shape.order, shape.full, element_size, cache);
  launch_expand_symmetric(
      result.mutable_data_ptr(),
      source.const_data_ptr(),
      element_size,
      layout_of(result.size(0), threads, shape, cache),
      c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

at::Tensor fold_symmetric_cuda(const at::Tensor& full, int64_t size, int64_t order) {
  const SymmetricShape shape = check_fold_symmetric(full, size, order);
  const c10::cuda::CUDAGuard guard(full.device());
  const at::Tensor source = full.contiguous().resolve_conj().resolve_neg();
  at::Tensor result = at::empty({full.size(0), shape.packed}, full.options());
  if (result.numel() == 0) {
    return result;
  }
  if (shape.order <= 1) {
    return at::add_out(result, source, 0); // the sum of one, which a zero of either sign is in
  }
  const int64_t cache = cache_bytes();
  const int64_t threads = fold_threads(shape.size, shape.order, result.element_size(), cache);
  launch_fold_symmetric(
      result.mutable_data_ptr(),
      source.const_data_ptr(),
      element_type(full.scalar_type()),
      layout_of(result.size(0), threads, shape, cache),
      c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

} // namespace
} // namespace highgrad::ops::cuda

TORCH_LIBRARY_IMPL(highgrad_ext, CUDA, m) {
  m.impl("expand_symmetric", TORCH_FN(highgrad::ops::cuda::expand_symmetric_cuda));
  m.impl("fold_symmetric", TORCH_FN(highgrad::ops::cuda::fold_symmetric_cuda));
}
