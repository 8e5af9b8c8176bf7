#pragma once

#include <vector>

#include "tape/tape.h"

namespace highgrad::engine {

// Keeps sweeps from writing to the .grad of intermediates on which retain_grad() was called: their hooks are taken off
// for the life of the object, and of all others that hold the same Node, in other threads.
class RetainedGrads {
 public:
  RetainedGrads() = default;
  RetainedGrads(const RetainedGrads&) = delete;
  RetainedGrads& operator=(const RetainedGrads&) = delete;
  ~RetainedGrads();

  void suspend(const tape::Tape& tape);

 private:
  std::vector<torch::autograd::Node*> nodes_;
};

} // namespace highgrad::engine
