#include "ops/cuda/decompress.cuh"
#include "ops/cuda/dispatch.cuh"
#include "ops/cuda/launch.h"
#include "ops/launch_plan.h"

namespace highgrad::ops::cuda {

void launch_decompress(void* dst, const void* src, int64_t element_size, const Entries& entries, cudaStream_t stream) {
  if (entries.count == 0) {
    return;
  }
  const LaunchPlan plan = plan_launch(entries.count);
  dispatch_size(element_size, [&](auto tag) {
    using element_t = typename decltype(tag)::type;
    decompress_kernel<element_t><<<plan.grid, plan.block, 0, stream>>>(
        static_cast<element_t*>(dst), static_cast<const element_t*>(src), entries);
  });
}

void launch_compress(void* dst, const void* src, ElementType type, const Entries& entries, cudaStream_t stream) {
  if (entries.count == 0) {
    return;
  }
  const LaunchPlan plan = plan_launch(entries.count);
  const auto launch = [&](auto tag) {
    using element_t = typename decltype(tag)::type;
    compress_kernel<element_t><<<plan.grid, plan.block, 0, stream>>>(
        static_cast<element_t*>(dst), static_cast<const element_t*>(src), entries);
  };
  if (is_complex(type)) {
    dispatch_complex(type, launch);
  } else {
    dispatch_real(type, launch);
  }
}

} // namespace highgrad::ops::cuda
