#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/accumulate.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/output_problem.h"

namespace highgrad::engine {

// A tensor of samples: how many, and of how many elements each.
struct Samples {
  int64_t count;
  int64_t rest;

  Samples(const at::Tensor& tensor, int64_t batch_dims)
      : count(c10::multiply_integers(tensor.sizes().slice(0, batch_dims))),
        rest(c10::multiply_integers(tensor.sizes().slice(batch_dims))) {}
};

// Raises, naming the Node, unless the first `batch_dims` axes of the output and of the inputs that it reaches, among
// all of its tape, count the same samples, each of which depends on itself alone: see Note [Samples that do not mix].
// to_derive: whether that is asked for derivatives of the Jacobian, too.
void check_samples_apart(
    const std::string& caller,
    const OutputProblem& reached,
    const std::vector<at::Tensor>& inputs,
    int64_t batch_dims,
    bool to_derive);

// Of all outputs, for derivatives of any order.
void check_samples_apart(
    const std::string& caller,
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    int64_t batch_dims);

} // namespace highgrad::engine
