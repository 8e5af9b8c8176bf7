#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "engine/options.h"
#include "engine/output_problem.h"

namespace highgrad::engine {

// Whether torch's own backward of each Node, once it is recorded, has the right derivatives.
bool is_recorded_right(const tape::Tape& tape);

// By input: the gradient of the sum of the output's elements, or undefined for zeros, as torch's engine records it. No
// Node of ours is around it, and torch's have the shorter backward: the best that there is of an only row, where torch
// records it right.
std::vector<at::Tensor> recorded_gradients(const OutputProblem& problem, bool keep_graph, Progress& progress);

} // namespace highgrad::engine
