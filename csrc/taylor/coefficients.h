#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "taylor/monomials.h"

namespace highgrad::taylor {

// What a tape tells of one output before any work.
struct Outlook {
  // Of the output as a polynomial in the inputs: 0 without a path, kUnbounded if it is none.
  int64_t degree;
  // Which inputs it reaches.
  std::vector<bool> reaches;
  // Why jets cannot flow over its tape, or an empty string.
  std::string obstacle;
  // Whether every Node is one of torch's or ours, without hooks: then mixed partials agree.
  bool regular;
  // Bytes of one row of all that is alive at once.
  int64_t bytes_per_row;
  // Bytes of one row of all tensors of the tape together.
  int64_t all_bytes_per_row;
  // Whether the highest order of contracted jets is left as products everywhere.
  bool contracts;
  // The highest order of derivatives that torch's own Nodes have, and have right.
  int64_t nested_orders;
};

std::vector<Outlook> inspect(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs);

// Whether the tapes prove that the first dimensions of outputs and inputs, whose sizes multiply to `count`, hold
// independent samples. False means that it is not known.
// everywhere: whether all tensors between have to keep them apart, too, in the order of samples.
bool keeps_samples_apart(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    int64_t count,
    bool everywhere);

struct CoefficientOptions {
  int64_t order;
  // Only the weighted sum of the last order's coefficients over all directions.
  bool collapsed = false;
  at::Tensor weights;
  // Coefficients in double precision, whatever the tensors' dtype.
  bool in_double = false;
  bool create_graph = true;
  // How many directions reach each order, where they differ: those of higher order come first.
  std::vector<int64_t> counts = {};
  // In place of all derivatives along every direction: the coefficients of these monomials in the coordinates along all
  // of them, by degree from 1 up to `order`, with every divisor of theirs. The first ones are the directions.
  std::vector<std::vector<Monomials::Index>> monomials = {};
};

// Taylor coefficients c_1, ..., c_n of every output along x + t v, v = directions[j] [D, *inputs[j].shape] or undefined
// for zero: [n, D, *output.shape], or collapsed [*output.shape], or with counts or monomials the rows of all orders one
// after another. Undefined where all are zero. Throws Unsupported.
std::vector<at::Tensor> coefficients(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const std::vector<at::Tensor>& directions,
    const CoefficientOptions& options);

// All partial derivatives of one order by the elements of all inputs of a sample together, whose number is N, by
// multivariate jets: packed [samples, rest, C(N + order - 1, order)], or undefined where all are zero. The first
// `batch_dims` dimensions of output and inputs are the samples. contracted: the highest order by cotangents instead of
// through the tape, for outputs of few elements a sample; the tape must prove that it keeps samples apart. Throws
// Unsupported.
at::Tensor partials(
    const at::Tensor& output,
    const std::vector<at::Tensor>& inputs,
    int64_t batch_dims,
    int64_t order,
    bool contracted,
    bool create_graph);

} // namespace highgrad::taylor
