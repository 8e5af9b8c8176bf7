#pragma once

#include <c10/util/ArrayRef.h>
#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "tape/node_rules.h"

namespace highgrad::tape {

// A tensor on the tape, as the cotangent that a sweep brings it: input `input_nr` of the Node at position `node` of
// Tape::nodes.
struct Slot {
  int32_t node = -1; // or -1: on no path from the output to an input
  uint32_t input_nr = 0;

  bool is_on_tape() const {
    return node >= 0;
  }

  bool operator==(const Slot& other) const {
    return node == other.node && input_nr == other.input_nr;
  }
};

struct TapeNode {
  torch::autograd::Node* node;
  // Tape::links[first_link + k] is where the Node's output k goes.
  int64_t first_link;
  // Bytes of one row of all the cotangents that it takes.
  int64_t bytes;
  // Whether a sweep runs the Node: it lies on a path to an input. Otherwise the Node only takes an input's cotangent.
  bool runs;
  // What torch's vmap does to it, if it runs.
  Distrust distrust = Distrust::kNone;
};

// What one sweep from an output to some inputs would run, read from the recorded graph without running anything.
struct Tape {
  // Each Node before all that it hands cotangents to.
  std::vector<TapeNode> nodes;
  // The edges of all Nodes, one for each of their next_edges; off the tape where that leads to no input.
  std::vector<Slot> links;
  Slot output;
  // Off the tape if the output does not reach it.
  std::vector<Slot> inputs;
  // Most bytes of cotangents that are alive at once for one row.
  int64_t peak_bytes_per_row = 0;
  // Bytes of cotangents that one row brings to all Nodes together.
  int64_t bytes_per_row = 0;
  // The worst that torch's vmap does to one of the Nodes.
  Distrust distrust = Distrust::kNone;
};

// Where each output of `node` goes.
c10::ArrayRef<Slot> links_of(const Tape& tape, const TapeNode& node);

// Reads the tape in one depth-first walk: linear in the Nodes behind `output`. An output without a graph (an invalid
// edge) reaches nothing.
Tape read_tape(const torch::autograd::Edge& output, const torch::autograd::edge_list& inputs);

// Whether read_tape gives this tape for these arguments.
bool is_tape_of(const Tape& tape, const torch::autograd::Edge& output, const torch::autograd::edge_list& inputs);

// The sizes of the cotangent that `node` takes as input `input_nr`; none for what is unknown, not strided or symbolic.
std::optional<std::vector<int64_t>> shape_of(const torch::autograd::Node& node, uint32_t input_nr);
std::optional<int64_t> numel_of(const torch::autograd::Node& node, uint32_t input_nr);

// Whether all cotangents that `node` takes are of `dtype`.
bool takes_dtype(const torch::autograd::Node& node, caffe2::TypeMeta dtype);

// Whether a Node that made an earlier version of `input`, before its latest `version` in-place changes, lies behind
// `output`: then a Jacobian by `input` as it is now would be zero only by mistake.
bool reaches_earlier_version(const torch::autograd::Edge& output, const torch::autograd::Edge& input, int64_t version);

} // namespace highgrad::tape
