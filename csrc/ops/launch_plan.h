#pragma once

// How a kernel over `numel` elements is launched. Plain C++, so that it is tested where there is no GPU.

#include <cstdint>

namespace highgrad::ops {

struct LaunchPlan {
  unsigned int grid;
  unsigned int block;
};

constexpr int kBlockThreads = 256;

// The largest grid that CUDA takes.
constexpr int64_t kMaxGrid = (int64_t{1} << 31) - 1;

// `items` elements a thread up to the largest grid; past that every block takes several turns, a grid apart.
inline LaunchPlan plan_launch(int64_t numel, int64_t items = 1) {
  const int64_t in_block = kBlockThreads * items;
  const int64_t blocks = numel / in_block + (numel % in_block != 0 ? 1 : 0);
  return {static_cast<unsigned int>(blocks < kMaxGrid ? blocks : kMaxGrid), static_cast<unsigned int>(kBlockThreads)};
}

} // namespace highgrad::ops
