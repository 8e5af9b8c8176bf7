#pragma once

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

} // namespace highgrad::tape
