#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <string>
#include <vector>

namespace highgrad::engine {

// What a sweep over the tape does to it.
struct SweepOptions {
  bool keep_graph = true;
  bool create_graph = false;
};

// B vector-Jacobian products in one sweep of torch's engine: cotangents[k] has shape [B, *outputs[k].shape]; entry j
// of the result has shape [B, *inputs[j].shape], any strides, or is undefined where no cotangent arrives. The batch is
// one level of functorch's vmap. The names of operators for which torch has no batching rule, and which it therefore
// looped over, are appended to `looped_ops` if given.
std::vector<at::Tensor> batched_vjp(
    const torch::autograd::edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const torch::autograd::edge_list& inputs,
    SweepOptions options,
    std::vector<std::string>* looped_ops = nullptr);

// One vector-Jacobian product without vmap: cotangents[k] has outputs[k]'s shape. The result has one row of each
// input, shape [1, *inputs[j].shape], as batched_vjp's.
std::vector<at::Tensor> single_vjp(
    const torch::autograd::edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const torch::autograd::edge_list& inputs,
    SweepOptions options);

// The name of the Node whose backward makes batched_vjp fail for these arguments, found by running it once more;
// empty when it is none (a hook), "a Node" when another search is under way.
std::string find_failing_node(
    const torch::autograd::edge_list& outputs,
    const std::vector<at::Tensor>& cotangents,
    const torch::autograd::edge_list& inputs);

} // namespace highgrad::engine
