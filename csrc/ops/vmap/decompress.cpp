#include "ops/decompress.h"

#include <ATen/ops/scatter.h>
#include <ATen/ops/scatter_add.h>
#include <ATen/ops/zeros.h>
#include <c10/util/accumulate.h>
#include <torch/library.h>

namespace highgrad::ops {
namespace {

at::Tensor decompress_vmap(
    const at::Tensor& compressed,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    at::IntArrayRef shape) {
  check_entries("decompress", compressed, source, target, c10::multiply_integers(shape));
  const at::Tensor values = compressed.reshape({-1}).index_select(0, source);
  if (!target.has_value()) {
    return values.reshape(shape);
  }
  const at::Tensor zeros = at::zeros({c10::multiply_integers(shape)}, compressed.options());
  return at::scatter(zeros, 0, *target, values).reshape(shape);
}

at::Tensor compress_vmap(
    const at::Tensor& values,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    at::IntArrayRef shape) {
  check_entries("compress", values, source, target, values.numel());
  const at::Tensor flat = values.reshape({-1});
  const at::Tensor zeros = at::zeros({c10::multiply_integers(shape)}, values.options());
  return at::scatter_add(zeros, 0, source, target.has_value() ? flat.index_select(0, *target) : flat).reshape(shape);
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, FuncTorchBatched, m) {
  m.impl("decompress", TORCH_FN(highgrad::ops::decompress_vmap));
  m.impl("compress", TORCH_FN(highgrad::ops::compress_vmap));
}
