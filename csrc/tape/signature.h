#pragma once

#include <cstdint>
#include <vector>

#include "tape/tape.h"

namespace highgrad::tape {

// Of a sequence of numbers: equal for equal sequences, in every process.
class Hash {
 public:
  void add(int64_t value) {
    // FNV's prime, on whole words, with the bits mixed downwards after each.
    state_ = (state_ ^ static_cast<uint64_t>(value)) * 0x100000001b3ULL;
    state_ ^= state_ >> 29;
  }
  void add(const std::vector<int64_t>& values) {
    add(static_cast<int64_t>(values.size()));
    for (const int64_t value : values) {
      add(value);
    }
  }
  void add(Slot slot) {
    add(slot.node);
    add(slot.input_nr);
  }
  uint64_t value() const {
    return state_;
  }

 private:
  uint64_t state_ = 0xcbf29ce484222325ULL;
};

// Of the Nodes' types, whether they have hooks, the shapes and dtypes of their cotangents, and the links: what a plan
// is made from, but for what Nodes have saved.
uint64_t signature_of(const Tape& tape);

} // namespace highgrad::tape
