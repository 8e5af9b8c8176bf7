#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plan/cost.h"
#include "plan/mode.h"
#include "structure/compression.h"
#include "structure/passes.h"
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

// How the Jacobian of one output by all inputs that it reaches is computed.
struct OutputPlan {
  // The Jacobian is the product of its segments' Jacobians, from the output on. None, if all of it is zero.
  std::vector<Segment> segments;
  std::string reason; // one sentence
  double cost = 0; // estimated, in rows of reverse mode over the whole tape
  double nanoseconds = 0; // likewise; 0 where nothing was estimated
  std::optional<Work> work = std::nullopt; // likewise, of sweeps over the whole tape
  // Why the mode that was asked for is not used, or an empty string.
  std::string obstacle = {};
  // If the Jacobian has one, it is computed by its structure, and by its segments only where that fails.
  std::shared_ptr<const structure::Compression> structure = nullptr;
  // How many samples share each sweep, where all inputs are parameters of layers; else 1. Likewise.
  int64_t samples = 1;
  // Of what the output joins, if each of these is computed by itself.
  std::vector<std::shared_ptr<const OutputPlan>> parts = {};

  // What is reported, and compared when the plan is kept.
  int64_t rows = 0;
  int64_t columns = 0;
  uint64_t signature = 0;
  int64_t chunk_size = 1;
  int64_t bytes_per_row = 0; // of cotangents alive at once

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

  // What is run, structure and samples that share passes included.
  int64_t shared_passes() const {
    int64_t sum = 0;
    for (const auto& part : parts) {
      sum += part->shared_passes();
    }
    return !parts.empty() ? sum : structure != nullptr ? structure::num_passes(*structure) : passes() / samples;
  }
};

} // namespace highgrad::plan
