#pragma once

#include <c10/core/Device.h>

#include <algorithm>
#include <cstdint>

#include "tape/tape.h"

namespace highgrad::plan {

// What Nodes do for one row or column: the bytes of cotangents that they take, or what takes as long, those of
// elementwise Nodes apart; the multiplications of their matrix products; and how many of their matrices a kernel takes
// one by one, a row's at a time.
struct PassWork {
  double bytes = 0;
  double elementwise_bytes = 0;
  double multiplications = 0;
  double matrices = 0;

  void add(const PassWork& other) {
    bytes += other.bytes;
    elementwise_bytes += other.elementwise_bytes;
    multiplications += other.multiplications;
    matrices += other.matrices;
  }

  PassWork times(double factor) const {
    return {factor * bytes, factor * elementwise_bytes, factor * multiplications, factor * matrices};
  }
};

// What sweeps over a part of the tape do: the Nodes that they run, and what these do for a row, and in forward mode for
// a column.
struct Work {
  int64_t nodes = 0;
  PassWork row = {};
  PassWork column = {};
  // Likewise, but where there are more rows than a Node's cotangents have elements, done for each of these alone.
  PassWork unit_row = {};
  int64_t most_units = 0;

  void add(const Work& other) {
    nodes += other.nodes;
    row.add(other.row);
    column.add(other.column);
    unit_row.add(other.unit_row);
    most_units = std::max(most_units, other.most_units);
  }
};

Work work_of(const tape::Tape& tape, const tape::TapeNode& node);

// Of what sweeps over all rows from `root` leave out: a linear layer of one vector at the start, and elementwise
// functions of it, whose product with the identity is known.
PassWork work_of_known_head(const tape::Tape& tape, tape::Slot root);

// Nanoseconds, estimated: they need to be right in their ratios, and only so well that no choice is a bad one.
struct CostModel {
  double node; // for a batched sweep to run a Node
  double recorded_node; // for forward mode to record the product of a Node, and to run what that takes
  double recording; // for forward mode besides, once
  double byte; // of cotangents
  double elementwise_byte; // likewise
  double multiplication; // in a matrix product
  double matrix; // to begin with it, of those taken one by one

  double pass(const PassWork& work) const;
  // What forward mode takes before any column.
  double record(int64_t nodes) const;
  double reverse(const Work& work, int64_t rows) const;
  double forward(const Work& work, int64_t rows, int64_t columns) const;
  // Of a matrix of rows x inner elements by one of inner x columns, and of checking that all of it is finite.
  double product(int64_t rows, int64_t inner, int64_t columns) const;
};

// Of sweeps that need torch's engine, or not.
const CostModel& cost_model(c10::Device device, bool needs_engine);

} // namespace highgrad::plan
