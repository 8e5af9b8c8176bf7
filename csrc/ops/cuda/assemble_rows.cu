#include "ops/cuda/assemble_rows.cuh"
#include "ops/cuda/dispatch.cuh"
#include "ops/cuda/launch.h"

namespace highgrad::ops::cuda {
namespace {

template <typename dst_t, typename src_t>
void launch_directly(dst_t* dst, const src_t* src, const StridedLayout& layout, int64_t numel, cudaStream_t stream) {
  const CopyPlan plan = plan_copy(layout, numel);
  const LaunchPlan launch = plan_launch(numel, copy_items(sizeof(src_t)));
  copy_block_kernel<dst_t, src_t><<<launch.grid, launch.block, 0, stream>>>(dst, src, plan);
}

template <typename dst_t, typename src_t>
void launch_part(dst_t* dst, const src_t* src, const StridedLayout& layout, int64_t numel, cudaStream_t stream) {
  const int row_dim = densest_dim(layout);
  if (is_transposed(layout, row_dim)) {
    const TransposePlan plan = plan_transpose(layout, row_dim, sizeof(dst_t), sizeof(src_t));
    copy_transposed_kernel<dst_t, src_t><<<plan.num_tiles, kBlockThreads, 0, stream>>>(dst, src, plan);
  } else if constexpr (std::is_same_v<dst_t, src_t>) {
    const int64_t bytes = bytes_at_once(dst, src, layout, sizeof(dst_t));
    const int64_t times = bytes / sizeof(dst_t);
    dispatch_size(bytes, [&](auto tag) {
      using longer_t = typename decltype(tag)::type;
      launch_directly(
          reinterpret_cast<longer_t*>(dst),
          reinterpret_cast<const longer_t*>(src),
          in_longer_elements(layout, times),
          numel / times,
          stream);
    });
  } else {
    launch_directly(dst, src, layout, numel, stream);
  }
}

// Of a large block, one half of what the outermost dimension counts after the other.
template <typename dst_t, typename src_t>
void launch(dst_t* dst, const src_t* src, const StridedLayout& layout, int64_t numel, cudaStream_t stream) {
  if (numel <= kMostCopied) {
    launch_part(dst, src, layout, numel, stream);
    return;
  }
  const int64_t count = layout.sizes[0];
  const int64_t first = count / 2;
  const int64_t done = numel / count * first;
  launch(dst, src, part_of(layout, first), done, stream);
  launch(dst + done, src + first * layout.strides[0], part_of(layout, count - first), numel - done, stream);
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
    if constexpr (std::is_same_v<dst_t, src_t>) {
      dispatch_size(sizeof(dst_t), [&](auto tag) {
        using moved_t = typename decltype(tag)::type;
        launch(static_cast<moved_t*>(dst), static_cast<const moved_t*>(src), layout, numel, stream);
      });
    } else {
      launch(static_cast<dst_t*>(dst), static_cast<const src_t*>(src), layout, numel, stream);
    }
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
