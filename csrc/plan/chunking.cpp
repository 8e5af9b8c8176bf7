#include "plan/chunking.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>

namespace highgrad::plan {
namespace {

// Live cotangents of one sweep. On the CPU the caches set the pace; but a single sweep needs no copy into the result,
// which is worth more up to the second figure. An accelerator needs more rows to be busy.
constexpr int64_t kCpuBudget = int64_t{8} << 20;
constexpr int64_t kCpuSingleSweep = int64_t{40} << 20;
constexpr int64_t kAcceleratorBudget = int64_t{1} << 30;

// Nodes have temporaries besides their cotangents, and other users of the memory must not be starved.
constexpr int64_t kShareOfFreeMemory = 4;

int64_t budget(c10::Device device, int64_t wanted) {
  if (device.is_cpu() || device.is_meta()) {
    return wanted <= kCpuSingleSweep ? wanted : kCpuBudget;
  }
  // Asking the driver for its free memory is slow: not for what certainly fits.
  if (wanted <= kCpuSingleSweep) {
    return wanted;
  }
  auto* allocator = c10::getDeviceAllocator(device.type());
  if (!allocator->initialized()) {
    return kAcceleratorBudget;
  }
  using c10::CachingAllocator::StatType;
  const auto stats = allocator->getDeviceStats(device.index());
  const auto total = static_cast<size_t>(StatType::AGGREGATE);
  const int64_t cached = stats.reserved_bytes[total].current - stats.allocated_bytes[total].current;
  const auto free = static_cast<int64_t>(allocator->getMemoryInfo(device.index()).first);
  return std::min(kAcceleratorBudget, (free + cached) / kShareOfFreeMemory);
}

} // namespace

int64_t automatic_chunk_size(int64_t rows, int64_t bytes_per_row, c10::Device device) {
  if (rows <= 1 || bytes_per_row == 0) {
    return std::max<int64_t>(rows, 1);
  }
  const int64_t most = budget(device, rows * bytes_per_row) / bytes_per_row;
  if (most >= rows) {
    return rows;
  }
  // Even chunks: the last one should not be a small rest.
  const int64_t chunks = (rows + std::max<int64_t>(most, 1) - 1) / std::max<int64_t>(most, 1);
  return (rows + chunks - 1) / chunks;
}

} // namespace highgrad::plan
