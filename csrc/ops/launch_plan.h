#pragma once

// How a kernel over `numel` elements is launched. Plain C++, so that it is tested where there is no GPU.

#include <cstdint>

namespace highgrad::ops {

struct LaunchPlan {
  unsigned int grid;
  unsigned int block;
};

// One thread an element up to a grid that fills any device; past that every thread takes several, a grid apart.
inline LaunchPlan plan_launch(int64_t numel) {
  constexpr int64_t kBlock = 256;
  constexpr int64_t kMaxGrid = int64_t{1} << 16;
  const int64_t blocks = numel / kBlock + (numel % kBlock != 0 ? 1 : 0);
  return {static_cast<unsigned int>(blocks < kMaxGrid ? blocks : kMaxGrid), static_cast<unsigned int>(kBlock)};
}

} // namespace highgrad::ops
