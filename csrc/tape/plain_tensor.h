#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <c10/core/DispatchKeySet.h>

namespace highgrad::tape {

// A tensor with memory of its own that a kernel may write to: no functorch wrapper, no subclass, no fake tensor.
inline bool is_plain(const at::Tensor& tensor) {
  constexpr c10::DispatchKeySet kWrapped(
      {c10::DispatchKey::FuncTorchBatched,
       c10::DispatchKey::FuncTorchGradWrapper,
       c10::DispatchKey::Python,
       c10::DispatchKey::Functionalize});
  return !tensor.key_set().has_any(kWrapped);
}

// Whether others may see its memory, as the gradients of a sum by what is added, or what a graph has saved; or its own
// elements do, as those of an expanded number. A view may have a base that nobody else has.
inline bool shares_memory(const at::Tensor& tensor) {
  const bool owns_base = tensor.is_view() && tensor._base().use_count() == 1;
  return tensor.use_count() > 1 || at::has_internal_overlap(tensor) == at::MemOverlap::Yes ||
      (tensor.has_storage() && tensor.storage().use_count() > (owns_base ? 2 : 1));
}

} // namespace highgrad::tape
