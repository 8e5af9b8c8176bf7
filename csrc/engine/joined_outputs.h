#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "engine/options.h"
#include "tape/tape.h"

namespace highgrad::engine {

// Note [Joined outputs]
// Several small outputs of one graph, as losses or residuals are, cost a sweep each, and each sweep runs most of the
// same Nodes. As one vector they share sweeps. But a row of one output then passes the Nodes of all others, as zeros,
// which 0 * inf and custom Functions would show: what is not finite is computed again, one output after another.

// All elements of the outputs as one recorded vector, or undefined where it is not expected to be cheaper, or not sure
// to give the same. tapes: of the outputs.
at::Tensor join_outputs(
    const std::vector<at::Tensor>& outputs,
    const std::vector<tape::Tape>& tapes,
    const JacobianOptions& options);

// The Jacobians of the outputs by one input, from that of all of them joined.
std::vector<at::Tensor> split_jacobian(
    const at::Tensor& jacobian,
    const std::vector<at::Tensor>& outputs,
    const at::Tensor& input);

} // namespace highgrad::engine
