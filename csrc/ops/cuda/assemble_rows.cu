#include "ops/cuda/assemble_rows.cuh"
#include "ops/cuda/dispatch.cuh"
#include "ops/cuda/launch.h"
#include "ops/launch_plan.h"

namespace highgrad::ops::cuda {

void launch_copy_block(
    void* dst,
    ElementType dst_type,
    const void* src,
    ElementType src_type,
    const StridedLayout& layout,
    int64_t numel,
    cudaStream_t stream) {
  const LaunchPlan plan = plan_launch(numel);
  const auto launch = [&](auto dst_tag, auto src_tag) {
    using dst_t = typename decltype(dst_tag)::type;
    using src_t = typename decltype(src_tag)::type;
    copy_block_kernel<dst_t, src_t>
        <<<plan.grid, plan.block, 0, stream>>>(static_cast<dst_t*>(dst), static_cast<const src_t*>(src), layout, numel);
  };
  if (is_complex(dst_type)) {
    dispatch_complex(
        dst_type, [&](auto dst_tag) { dispatch_complex(src_type, [&](auto src_tag) { launch(dst_tag, src_tag); }); });
  } else {
    dispatch_real(
        dst_type, [&](auto dst_tag) { dispatch_real(src_type, [&](auto src_tag) { launch(dst_tag, src_tag); }); });
  }
}

} // namespace highgrad::ops::cuda
