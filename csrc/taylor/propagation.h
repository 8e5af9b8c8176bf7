#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/flat_hash_map.h>

#include <vector>

#include "tape/tape.h"
#include "taylor/contraction.h"
#include "taylor/fusion.h"
#include "taylor/jet.h"

namespace highgrad::taylor {

// The jets of one call. Those of a Node do not depend on the output, so several outputs share them.
class Propagation {
 public:
  // directions: the first coefficients of the tapes' inputs, undefined for zero.
  Propagation(const Frame& frame, const std::vector<at::Tensor>& directions, bool share)
      : frame_(frame), directions_(directions), share_(share) {}

  // The jet of the output; with a contraction, of the orders below the highest, which it takes.
  Jet run(const tape::Tape& tape, Contraction* contraction = nullptr);

 private:
  void seed(const tape::Tape& tape, size_t j);
  Jet jet_at(const tape::Tape& tape, const tape::Slot& slot) const;
  std::vector<Jet> apply(const tape::Tape& tape, const tape::TapeNode& node) const;
  std::vector<Jet> apply_fused(const tape::Tape& tape, const FusedFunction& function) const;

  const Frame& frame_;
  const std::vector<at::Tensor>& directions_;
  bool share_;
  ska::flat_hash_map<const torch::autograd::Node*, std::vector<Jet>> jets_;
  ska::flat_hash_map<const torch::autograd::Node*, std::vector<size_t>> seeds_;
};

} // namespace highgrad::taylor
