#include "ops/cuda/dispatch.cuh"
#include "ops/cuda/expand_symmetric.cuh"
#include "ops/cuda/launch.h"
#include "ops/symmetric_tiles.h"

namespace highgrad::ops::cuda {

void launch_expand_symmetric(
    void* full,
    const void* packed,
    int64_t element_size,
    const SymmetricLayout& layout,
    cudaStream_t stream) {
  dispatch_size(element_size, [&](auto tag) {
    using element_t = typename decltype(tag)::type;
    auto* to = static_cast<element_t*>(full);
    const auto* from = static_cast<const element_t*>(packed);
    const LaunchPlan plan =
        plan_launch(layout.lanes * expand_threads(layout.size, layout.order, layout.full, element_size, layout.cache));
    if (has_symmetric_tiles(layout.size, layout.order)) {
      const SymmetricTiles tiles = plan_symmetric_tiles(layout.size, layout.order, element_size, layout.cache);
      expand_tiles_kernel<element_t><<<plan.grid, plan.block, 0, stream>>>(to, from, layout, tiles);
    } else {
      const SymmetricColumns columns = plan_symmetric_columns(layout.size, layout.full);
      expand_columns_kernel<element_t><<<plan.grid, plan.block, 0, stream>>>(to, from, layout, columns);
    }
  });
}

void launch_fold_symmetric(
    void* packed,
    const void* full,
    ElementType type,
    const SymmetricLayout& layout,
    cudaStream_t stream) {
  const auto launch = [&](auto tag) {
    using element_t = typename decltype(tag)::type;
    auto* to = static_cast<element_t*>(packed);
    const auto* from = static_cast<const element_t*>(full);
    const LaunchPlan plan =
        plan_launch(layout.lanes * fold_threads(layout.size, layout.order, sizeof(element_t), layout.cache));
    if (has_fold_tiles(layout.size, layout.order)) {
      const SymmetricTiles tiles = plan_symmetric_tiles(layout.size, layout.order, sizeof(element_t), layout.cache);
      fold_tiles_kernel<element_t><<<plan.grid, plan.block, 0, stream>>>(to, from, layout, tiles);
    } else if (has_fold_bricks(layout.size, layout.order)) {
      const SymmetricCubes bricks = plan_symmetric_bricks(layout.size, sizeof(element_t), layout.cache);
      fold_bricks_kernel<element_t><<<plan.grid, plan.block, 0, stream>>>(to, from, layout, bricks);
    } else {
      const SymmetricGroups groups = plan_symmetric_groups(layout.size, layout.order, sizeof(element_t), layout.cache);
      fold_entries_kernel<element_t><<<plan.grid, plan.block, 0, stream>>>(to, from, layout, groups);
    }
  };
  if (is_complex(type)) {
    dispatch_complex(type, launch);
  } else {
    dispatch_real(type, launch);
  }
}

} // namespace highgrad::ops::cuda
