#include "ops/decompress.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "ops/cuda/launch.h"
#include "ops/cuda/scalar_type.h"

namespace highgrad::ops::cuda {
namespace {

// The arguments of both ops as the kernels take them: contiguous, for as long as the object lives.
struct Arguments {
  Arguments(const at::Tensor& from, const at::Tensor& source, const std::optional<at::Tensor>& target)
      : from(from.resolve_conj().resolve_neg().contiguous()),
        source(source.contiguous()),
        target(target.has_value() ? target->contiguous() : at::Tensor()) {}

  Entries entries(int64_t source_numel, int64_t target_numel) const {
    return {
        source.const_data_ptr<int64_t>(),
        target.defined() ? target.const_data_ptr<int64_t>() : nullptr,
        source.numel(),
        source_numel,
        target_numel};
  }

  at::Tensor from;
  at::Tensor source;
  at::Tensor target;
};

at::Tensor decompress_cuda(
    const at::Tensor& compressed,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    at::IntArrayRef shape) {
  const c10::cuda::CUDAGuard guard(compressed.device());
  const at::TensorOptions options = compressed.options().layout(at::kStrided);
  const at::Tensor result = target.has_value() ? at::zeros(shape, options) : at::empty(shape, options);
  check_entries("decompress", compressed, source, target, result.numel());
  const Arguments arguments(compressed, source, target);
  launch_decompress(
      result.mutable_data_ptr(),
      arguments.from.const_data_ptr(),
      static_cast<int64_t>(result.element_size()),
      arguments.entries(compressed.numel(), result.numel()),
      c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

at::Tensor compress_cuda(
    const at::Tensor& values,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    at::IntArrayRef shape) {
  const c10::cuda::CUDAGuard guard(values.device());
  check_entries("compress", values, source, target, values.numel());
  const at::Tensor result = at::zeros(shape, values.options().layout(at::kStrided));
  const Arguments arguments(values, source, target);
  launch_compress(
      result.mutable_data_ptr(),
      arguments.from.const_data_ptr(),
      element_type(values.scalar_type()),
      arguments.entries(result.numel(), values.numel()),
      c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

} // namespace
} // namespace highgrad::ops::cuda

TORCH_LIBRARY_IMPL(highgrad_ext, CUDA, m) {
  m.impl("decompress", TORCH_FN(highgrad::ops::cuda::decompress_cuda));
  m.impl("compress", TORCH_FN(highgrad::ops::cuda::compress_cuda));
}
