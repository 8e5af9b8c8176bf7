#pragma once

// Launchers of the torch-free kernels: raw pointers to device memory, on a stream. Nothing here waits for the device.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/cuda/element_type.h"
#include "ops/index_math.h"

namespace highgrad::ops::cuda {

void launch_seed_basis(
    void* basis,
    ElementType type,
    int64_t rows,
    int64_t columns,
    int64_t first_row,
    cudaStream_t stream);

// Real to real or complex to complex; numel is at least 1.
void launch_copy_block(
    void* dst,
    ElementType dst_type,
    const void* src,
    ElementType src_type,
    const StridedLayout& layout,
    int64_t numel,
    cudaStream_t stream);

} // namespace highgrad::ops::cuda
