#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <vector>

#include "structure/nan_probes.h"

namespace highgrad::engine {

// Probes of the Jacobian of `output` (see structure's Note [Patterns by NaN]) by batched sweeps of at most `chunk_size`
// probes. The columns are the elements of all inputs, one input after the other. The arguments must outlive it. A probe
// fails if its sweep does, unless by an interrupt, which is thrown.
structure::Probe make_probe(
    const at::Tensor& output,
    const std::vector<at::Tensor>& inputs,
    const torch::autograd::edge_list& edges,
    int64_t chunk_size);

} // namespace highgrad::engine
