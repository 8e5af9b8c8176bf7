#include "ops/cuda/assemble_rows.cuh"
#include "ops/cuda/dispatch.cuh"
#include "ops/cuda/launch.h"

namespace highgrad::ops::cuda {
namespace {

template <typename dst_t, typename src_t>
void launch(dst_t* dst, const src_t* src, const StridedLayout& layout, int64_t numel, cudaStream_t stream) {
  const int row_dim = densest_dim(layout);
  if (row_dim == layout.num_dims - 1) {
    const LaunchPlan launch = plan_launch(numel, kCopyItems);
    copy_block_kernel<dst_t, src_t><<<launch.grid, launch.block, 0, stream>>>(dst, src, layout, numel);
  } else {
    const TransposePlan plan = plan_transpose(layout, row_dim, sizeof(dst_t), sizeof(src_t));
    const auto grid = static_cast<unsigned int>(plan.num_tiles < kMaxGrid ? plan.num_tiles : kMaxGrid);
    copy_transposed_kernel<dst_t, src_t><<<grid, kBlockThreads, 0, stream>>>(dst, src, plan);
  }
}

} // namespace

void launch_copy_block(
    void* dst,
    ElementType dst_type,
    const void* src,
    ElementType src_type,
    const StridedLayout& layout,
    int64_t numel,
    cudaStream_t stream) {
  const auto launch_typed = [&](auto dst_tag, auto src_tag) {
    using dst_t = typename decltype(dst_tag)::type;
    using src_t = typename decltype(src_tag)::type;
    launch(static_cast<dst_t*>(dst), static_cast<const src_t*>(src), layout, numel, stream);
  };
  if (is_complex(dst_type)) {
    dispatch_complex(dst_type, [&](auto dst_tag) {
      dispatch_complex(src_type, [&](auto src_tag) { launch_typed(dst_tag, src_tag); });
    });
  } else {
    dispatch_real(dst_type, [&](auto dst_tag) {
      dispatch_real(src_type, [&](auto src_tag) { launch_typed(dst_tag, src_tag); });
    });
  }
}

} // namespace highgrad::ops::cuda
