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

// Threads that keep a large device busy: 2048 on each of 128 multiprocessors.
constexpr int64_t kBusyThreads = int64_t{1} << 18;

// Of a kernel whose threads each do the same column of several rows: how many rows threads are started for. No more
// than keep a device busy, since a thread that does more rows spends less on each. Both numbers are at least 1.
inline int64_t plan_lanes(int64_t rows, int64_t columns) {
  const int64_t lanes = kBusyThreads / columns + (kBusyThreads % columns != 0 ? 1 : 0);
  return lanes < rows ? lanes : rows;
}

} // namespace highgrad::ops
