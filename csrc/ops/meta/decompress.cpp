#include "ops/decompress.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace highgrad::ops {
namespace {

at::Tensor decompress_meta(
    const at::Tensor& compressed,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    c10::SymIntArrayRef shape) {
  at::Tensor result = at::empty_symint(shape, compressed.options().layout(at::kStrided));
  check_entries("decompress", compressed, source, target, result.sym_numel());
  return result;
}

at::Tensor compress_meta(
    const at::Tensor& values,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    c10::SymIntArrayRef shape) {
  check_entries("compress", values, source, target, values.sym_numel());
  return at::empty_symint(shape, values.options().layout(at::kStrided));
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, Meta, m) {
  m.impl("decompress", TORCH_FN(highgrad::ops::decompress_meta));
  m.impl("compress", TORCH_FN(highgrad::ops::compress_meta));
}
