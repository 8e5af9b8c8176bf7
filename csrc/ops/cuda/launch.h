#pragma once

// Launchers of the torch-free kernels: raw pointers to device memory, on a stream. Nothing here waits for the device.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/cuda/element_type.h"
#include "ops/index_math.h"
#include "ops/local_element.h"

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

// How many elements there are, and where each entry comes from and goes to. Without `target`, entry k is at place k.
struct Entries {
  const int64_t* source;
  const int64_t* target;
  int64_t count;
  int64_t source_numel; // of the tensor that `source` counts
  int64_t target_numel;
};

// dst[target[k]] = src[source[k]], elements of `element_size` bytes.
void launch_decompress(void* dst, const void* src, int64_t element_size, const Entries& entries, cudaStream_t stream);

// dst[source[k]] += src[target[k]]; dst holds zeros.
void launch_compress(void* dst, const void* src, ElementType type, const Entries& entries, cudaStream_t stream);

// Rows of symmetric tensors (ops/symmetric_index.h); every `lanes`-th row has the same thread. Nothing is empty, and
// the order is at least 2: below, both ops are copies.
struct SymmetricLayout {
  int64_t rows;
  int64_t lanes;
  int64_t packed; // entries a row
  int64_t full;
  int64_t size;
  int64_t cache; // bytes of the second-level cache
  int order;
};

// [rows, packed] to [rows, full], elements of `element_size` bytes.
void launch_expand_symmetric(
    void* full,
    const void* packed,
    int64_t element_size,
    const SymmetricLayout& layout,
    cudaStream_t stream);

// [rows, full] to [rows, packed]: the sum of what launch_expand_symmetric copies an entry to. The order is at least 1:
// a number is a vector of one.
void launch_fold_symmetric(
    void* packed,
    const void* full,
    ElementType type,
    const SymmetricLayout& layout,
    cudaStream_t stream);

// The jet of phi(x), element by element: ops/compose_jet.h. Nothing is empty.
struct CompositionLayout {
  const void* seeds[kMostSeeds]; // null past those of the kind
  const void* weights; // [directions] of the sum over directions, or null for ones
  int64_t numel; // of one coefficient
  int64_t period; // after so many elements, the rows of x repeat
  int64_t order;
  int64_t terms; // orders of x
  int64_t collapsed; // 1 where the highest order is one row, the sum over directions, or 0
  int64_t highest_row; // the first of the highest order
  int64_t counts[kMostComposedOrder]; // directions that reach each order, 1 first; 0 past the highest
  int64_t first_rows[kMostComposedOrder]; // of each order
};

// The rows of phi(x) from those of x. Float or double.
void launch_compose_jet(
    void* rows,
    const void* x,
    ElementType type,
    const CompositionLayout& layout,
    const LocalEquation<double>& equation,
    cudaStream_t stream);

// From the cotangent of those rows to that of x's, none of which repeats, and to x_0's.
void launch_reverse_jet(
    void* by_x,
    void* by_x0,
    const void* by_rows,
    const void* x,
    ElementType type,
    const CompositionLayout& layout,
    const LocalEquation<double>& equation,
    cudaStream_t stream);

} // namespace highgrad::ops::cuda
