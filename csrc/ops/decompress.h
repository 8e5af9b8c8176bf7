#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>

namespace highgrad::ops {

// Note [Compressed entries]
// A compressed Jacobian holds each entry of the pattern once, at some place. `source` (int64, 1-D) tells for every
// entry the place in the compressed tensor, `target` the place in the result, both in row-major order; without `target`
// entry k goes to place k, as the values of a sparse tensor do. No target may occur twice; sources may (the two halves
// of a symmetric matrix). The two ops are each the other's adjoint, so both are differentiable to any order.

// A contiguous tensor of `shape`: result[target[k]] = compressed[source[k]], zero elsewhere.
at::Tensor decompress(
    const at::Tensor& compressed,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    c10::SymIntArrayRef shape);

// A contiguous tensor of `shape`: result[source[k]] += values[target[k]], zero elsewhere.
at::Tensor compress(
    const at::Tensor& values,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    c10::SymIntArrayRef shape);

// What the kernels of all devices, and of none (Meta), check first, for the op called `name`: `whole` is the tensor
// whose elements `target` counts.
void check_entries(
    const char* name,
    const at::Tensor& from,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    const c10::SymInt& whole);

} // namespace highgrad::ops
