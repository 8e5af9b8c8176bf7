#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "plan/plan.h"

namespace highgrad::plan {

// Rows that no other plan can save passes of.
constexpr int64_t kFewRows = 3;

// What is asked of one output, of `rows` elements, and the inputs that it reaches, of `columns` elements together.
struct Request {
  const tape::Tape& tape;
  int64_t rows;
  int64_t columns;
  c10::Device device;
  Mode mode = Mode::kAuto; // or what is forced
  // What may be thought of, besides all rows in reverse mode.
  bool may_forward = true;
  bool may_split = true;
  // Whether sweeps go through torch's engine.
  bool needs_engine = true;
};

// All rows, or all columns, over the whole tape.
OutputPlan plain_plan(const Request& request, Mode mode, std::string reason);

// The plan that is expected to be the fastest, all rows in reverse mode where that is as good. Linear in the tape's
// Nodes, and quadratic in the few narrow bottlenecks that may be worth a cut. Touches no tensor.
OutputPlan plan_output(const Request& request);

} // namespace highgrad::plan
