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
  // What is only moved needs no type.
  const auto launch = [&](auto tag) {
    using element_t = decltype(tag);
    decompress_kernel<element_t><<<plan.grid, plan.block, 0, stream>>>(
        static_cast<element_t*>(dst), static_cast<const element_t*>(src), entries);
  };
  switch (element_size) {
    case 2:
      return launch(static_cast<short>(0));
    case 4:
      return launch(0);
    case 8:
      return launch(int64_t{0});
    default:
      return launch(int4{});
  }
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
