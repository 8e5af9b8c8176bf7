#include "ops/decompress.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include "ops/check_dtype.h"
#include "ops/sym_shape.h"

namespace highgrad::ops {
namespace {

using Op = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::SymIntArrayRef);

void check_index(const char* name, const char* index_name, const at::Tensor& index, const at::Tensor& from) {
  TORCH_CHECK(
      index.scalar_type() == at::kLong && index.dim() == 1,
      name,
      ": expected ",
      index_name,
      " to be a 1-D int64 tensor, got ",
      index.scalar_type(),
      " of shape ",
      index.sym_sizes());
  TORCH_CHECK(
      index.device() == from.device(),
      name,
      ": expected ",
      index_name,
      " on ",
      from.device(),
      ", got ",
      index.device());
}

} // namespace

at::Tensor decompress(
    const at::Tensor& compressed,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    c10::SymIntArrayRef shape) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("highgrad_ext::decompress", "").typed<Op>();
  return op.call(compressed, source, target, shape);
}

at::Tensor compress(
    const at::Tensor& values,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    c10::SymIntArrayRef shape) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("highgrad_ext::compress", "").typed<Op>();
  return op.call(values, source, target, shape);
}

void check_entries(
    const char* name,
    const at::Tensor& from,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    const c10::SymInt& whole) {
  check_dtype(name, from.scalar_type());
  check_index(name, "source", source, from);
  if (target.has_value()) {
    check_index(name, "target", *target, from);
  }
  const c10::SymInt entries = target.has_value() ? target->sym_numel() : whole;
  TORCH_CHECK(
      is_same_size(source.sym_numel(), entries),
      name,
      ": expected one source for each of the ",
      entries,
      " entries, got ",
      source.sym_numel());
}

} // namespace highgrad::ops
