#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <string>
#include <vector>

namespace highgrad::engine {

class SplitTape;

// What a sweep over the tape does to it.
struct SweepOptions {
  bool keep_graph = true;
  bool create_graph = false;
};

// B vector-Jacobian products in one sweep of torch's engine: cotangents[k] has shape [B, *outputs[k].shape]; entry j
// of the result has shape [B, *inputs[j].shape], any strides, or is undefined where no cotangent arrives. The batch is
// one level of functorch's vmap. The names of operators for which torch has no batching rule, and which it therefore
// looped over, are appended to `looped_ops` if given. With `split`, a tape from the outputs to the inputs, the sweep
// runs as that says, and has to keep the graph.
std::vector<at::Tensor> batched_vjp(
    const torch::autograd::edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const torch::autograd::edge_list& inputs,
    SweepOptions options,
    std::vector<std::string>* looped_ops = nullptr,
    SplitTape* split = nullptr);

// One vector-Jacobian product without vmap: cotangents[k] has outputs[k]'s shape, entry j of the result inputs[j]'s.
std::vector<at::Tensor> plain_vjp(
    const torch::autograd::edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const torch::autograd::edge_list& inputs,
    SweepOptions options);

// The same as one row of each input, shape [1, *inputs[j].shape], as batched_vjp's.
std::vector<at::Tensor> single_vjp(
    const torch::autograd::edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const torch::autograd::edge_list& inputs,
    SweepOptions options);

} // namespace highgrad::engine
