#include "ops/cuda/dispatch.cuh"
#include "ops/cuda/expand_symmetric.cuh"
#include "ops/cuda/launch.h"
#include "ops/launch_plan.h"

namespace highgrad::ops::cuda {

void launch_expand_symmetric(
    void* full,
    const void* packed,
    int64_t element_size,
    const SymmetricLayout& layout,
    cudaStream_t stream) {
  const LaunchPlan plan = plan_launch(layout.lanes * layout.full);
  dispatch_size(element_size, [&](auto tag) {
    using element_t = typename decltype(tag)::type;
    expand_symmetric_kernel<element_t><<<plan.grid, plan.block, 0, stream>>>(
        static_cast<element_t*>(full), static_cast<const element_t*>(packed), layout);
  });
}

void launch_fold_symmetric(
    void* packed,
    const void* full,
    ElementType type,
    const SymmetricLayout& layout,
    cudaStream_t stream) {
  const LaunchPlan plan = plan_launch(layout.lanes * layout.packed);
  const auto launch = [&](auto tag) {
    using element_t = typename decltype(tag)::type;
    fold_symmetric_kernel<element_t><<<plan.grid, plan.block, 0, stream>>>(
        static_cast<element_t*>(packed), static_cast<const element_t*>(full), layout);
  };
  if (is_complex(type)) {
    dispatch_complex(type, launch);
  } else {
    dispatch_real(type, launch);
  }
}

} // namespace highgrad::ops::cuda
