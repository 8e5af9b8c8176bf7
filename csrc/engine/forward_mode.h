#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/endpoint.h"
#include "engine/options.h"
#include "tape/tape.h"

namespace highgrad::engine {

// Why all rows of `output` by `inputs` can only be computed in reverse mode, over the whole tape, or an empty string.
std::string plain_obstacle(const at::Tensor& output, const std::vector<at::Tensor>& inputs);

// Why forward mode (see Note [Forward mode by double backward]) cannot be used, or an empty string.
std::string forward_obstacle(const at::Tensor& output, const tape::Tape& tape, const std::vector<at::Tensor>& inputs);

// Why columns that were begun are given up.
constexpr const char* kNoColumns =
    "the graph has no double backward that is known to be right, or gives an entry that is not finite";

// Warns that forward mode, which was asked for, gives way.
void warn_of_reverse_mode(const JacobianOptions& options, const std::string& obstacle);

// Whether all entries are finite, or so large that their sum is not. Entries without data are. Where some are not,
// 0 * inf = NaN arises in other places than in all rows in reverse mode, which is what users know.
bool is_finite(const at::Tensor& tensor);

// All columns of the root's Jacobian: by input [*input.shape, *root.shape], or undefined for zeros. None when the graph
// has no double backward, or a wrong one, or, with create_graph, one that may not be differentiable. With `batch_dims`,
// those of samples that do not mix, all samples' at once: [*rest of input.shape, *root.shape].
std::optional<std::vector<at::Tensor>> compute_columns(
    const Endpoint& root,
    const torch::autograd::edge_list& inputs,
    const JacobianOptions& options,
    Progress& progress,
    int64_t batch_dims = 0);

} // namespace highgrad::engine
