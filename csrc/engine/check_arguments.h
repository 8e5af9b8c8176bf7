#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/edge.h>

#include <optional>
#include <string>
#include <vector>

namespace highgrad::engine {

// Raises the errors that the arguments of `caller` alone decide, before any work.
void check_arguments(
    const std::string& caller,
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    bool create_graph,
    std::optional<int64_t> chunk_size,
    const std::optional<std::vector<at::Tensor>>& out);

// Raises if an output does not depend on `input`, but on what that was before it was changed in place: it would look
// unused.
void check_version(const std::string& caller, const torch::autograd::Edge& output, const at::Tensor& input);

// The same for all pairs, those that depend on one another too.
void check_versions(
    const std::string& caller,
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs);

// Raises unless `out` can take results of the given shapes, of the dtypes and devices of `likes`, without sharing
// memory with one another or with `others`.
void check_out(
    const std::string& caller,
    const std::vector<std::vector<int64_t>>& shapes,
    const std::vector<at::Tensor>& likes,
    const std::vector<at::Tensor>& out,
    const std::vector<at::Tensor>& others);

} // namespace highgrad::engine
