#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tape/tape.h"

namespace highgrad::tape {

// Numbers all slots of a tape from 0 on, Node by Node, for what walks keep of each.
class SlotNumbers {
 public:
  explicit SlotNumbers(const Tape& tape) {
    first_.reserve(tape.nodes.size());
    for (const TapeNode& node : tape.nodes) {
      first_.push_back(size_);
      size_ += node.node->num_inputs();
    }
  }

  size_t operator()(Slot slot) const {
    return first_[slot.node] + slot.input_nr;
  }

  // Of input `input_nr` of the Node at a position.
  size_t operator()(size_t position, uint32_t input_nr) const {
    return first_[position] + input_nr;
  }

  size_t size() const {
    return size_;
  }

 private:
  std::vector<size_t> first_;
  size_t size_ = 0;
};

} // namespace highgrad::tape
