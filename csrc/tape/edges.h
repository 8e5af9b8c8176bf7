#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>

#include <vector>

#include "tape/tape.h"

namespace highgrad::tape {

// Where a tensor's cotangent goes; no Edge for one without a graph.
torch::autograd::Edge edge_of(const at::Tensor& tensor);
torch::autograd::edge_list edges_of(const std::vector<at::Tensor>& tensors);

// One of each output.
std::vector<Tape> read_tapes(const std::vector<at::Tensor>& outputs, const torch::autograd::edge_list& inputs);

} // namespace highgrad::tape
