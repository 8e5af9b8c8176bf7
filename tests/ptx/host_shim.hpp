// Runs kernels as plain C++: every CUDA thread of a block is a std::thread, blocks take turns, and __syncthreads is a
// barrier. Included before a kernel's own text, whose launches toolchain.py has rewritten into calls of launch().
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <barrier>
#include <cstddef>
#include <thread>
#include <vector>

// Empty or nothing to a host compiler, but for shared memory, of which the block that runs has the only one.
#undef __shared__
#define __shared__ static
#undef __grid_constant__
#define __grid_constant__
#undef __launch_bounds__
#define __launch_bounds__(...)

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;
inline thread_local std::barrier<>* block_barrier;

inline void __syncthreads() {
  block_barrier->arrive_and_wait();
}

namespace host_shim {

template <typename Kernel>
void launch(dim3 grid, dim3 block, Kernel&& kernel) {
  std::barrier barrier(static_cast<std::ptrdiff_t>(block.x));
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < block.x; ++thread) {
    threads.emplace_back([&, thread] {
      threadIdx = dim3(thread);
      blockDim = block;
      gridDim = grid;
      block_barrier = &barrier;
      for (unsigned i = 0; i < grid.x; ++i) {
        blockIdx = dim3(i);
        kernel();
        __syncthreads();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

} // namespace host_shim

// Atomics, by compare and swap.
inline unsigned short atomicCAS(unsigned short* address, unsigned short expected, unsigned short desired) {
  __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return expected;
}

template <typename T>
T atomicAdd(T* address, T value) {
  T seen;
  __atomic_load(address, &seen, __ATOMIC_SEQ_CST);
  T sum = seen + value;
  while (!__atomic_compare_exchange(address, &seen, &sum, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    sum = seen + value;
  }
  return seen;
}
