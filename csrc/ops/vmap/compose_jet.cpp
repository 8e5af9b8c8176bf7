// compose_jet has no batching rule: jets of batched tensors go by torch's operations.

#include <c10/util/Exception.h>
#include <torch/library.h>

namespace highgrad::ops {
namespace {

void refuse_vmap(const c10::OperatorHandle& op, torch::jit::Stack* /*stack*/) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, op.schema().name(), ": has no batching rule");
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, FuncTorchBatched, m) {
  m.impl("compose_jet", torch::CppFunction::makeFromBoxedFunction<&highgrad::ops::refuse_vmap>());
  m.impl("compose_jet_backward", torch::CppFunction::makeFromBoxedFunction<&highgrad::ops::refuse_vmap>());
}
