#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/flat_hash_map.h>
#include <torch/csrc/autograd/function.h>

#include <vector>

#include "tape/tape.h"
#include "taylor/jet.h"

namespace highgrad::taylor {

// Whether every Node that is not linear hands over products, rather than polynomials that are multiplied out.
bool contracts(const tape::Tape& tape);

// The polynomials of highest order of an output from what each Node makes of lower orders. See Note [Contracted jets].
class Contraction {
 public:
  // Finds the cotangents of all Nodes by one sweep.
  Contraction(const Frame& frame, const tape::Tape& tape, const at::Tensor& output, int64_t samples);

  // Takes the highest order out of the jets of a Node's outputs.
  void take_highest(torch::autograd::Node& node, std::vector<Jet>& jets);

  // [samples, outputs a sample, monomials], or undefined for zero.
  at::Tensor take();

 private:
  void add(const Product& product, const at::Tensor& cotangent, at::IntArrayRef shape);

  const Frame& frame_;
  int64_t samples_;
  int64_t outputs_; // of one sample
  // By Node and output: [outputs, *shape], or undefined for zero.
  ska::flat_hash_map<const torch::autograd::Node*, std::vector<at::Tensor>> cotangents_;
  // By j: sums over elements of products of a row of order j and one of order n - j, [samples, outputs * rows, rows].
  std::vector<at::Tensor> pairs_;
  // Of what is not a product: [samples, monomials, outputs].
  at::Tensor rest_;
};

} // namespace highgrad::taylor
