#include <algorithm>

#include "ops/cuda/dispatch.cuh"
#include "ops/cuda/launch.h"
#include "ops/cuda/seed_basis.cuh"

namespace highgrad::ops::cuda {

void launch_seed_basis(
    void* basis,
    ElementType type,
    int64_t rows,
    int64_t columns,
    int64_t first_row,
    cudaStream_t stream) {
  const int64_t numel = rows * columns;
  const auto launch = [&](auto tag) {
    using element_t = typename decltype(tag)::type;
    for (int64_t begin = 0; begin < numel; begin += kMostFilled) {
      const BasisPlan plan = plan_basis(rows, columns, first_row, begin, std::min(numel - begin, kMostFilled));
      const LaunchPlan launch = plan_launch(plan.numel, Pack<element_t>::kSize);
      seed_basis_kernel<element_t>
          <<<launch.grid, launch.block, 0, stream>>>(static_cast<element_t*>(basis) + begin, plan);
    }
  };
  if (is_complex(type)) {
    dispatch_complex(type, launch);
  } else {
    dispatch_real(type, launch);
  }
}

} // namespace highgrad::ops::cuda
