#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "plan/mode.h"
#include "tape/tape.h"

namespace highgrad::plan {

// A part of the tape, from one tensor to the root of the next segment or, for the last, to the inputs.
struct Segment {
  tape::Slot root;
  Mode mode; // kReverse or kForward
  int64_t rows; // elements of the root
  int64_t columns; // elements of what it leads to

  int64_t passes() const {
    return mode == Mode::kReverse ? rows : columns;
  }
};

// How the Jacobian of one output by all inputs that it reaches is computed: the product of its segments' Jacobians,
// from the output on.
struct OutputPlan {
  std::vector<Segment> segments;
  std::string reason; // one sentence

  bool is_plain_reverse() const {
    return segments.size() == 1 && segments.front().mode == Mode::kReverse;
  }

  bool needs_double_backward() const {
    return std::any_of(
        segments.begin(), segments.end(), [](const Segment& segment) { return segment.mode == Mode::kForward; });
  }

  int64_t passes() const {
    int64_t sum = 0;
    for (const Segment& segment : segments) {
      sum += segment.passes();
    }
    return sum;
  }
};

} // namespace highgrad::plan
