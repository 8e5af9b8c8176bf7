#pragma once

#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <vector>

#include "tape/node_rules.h"

namespace highgrad::tape {

// What one sweep from an output to some inputs would run, read from the recorded graph without running anything.
struct Tape {
  // The Nodes on a path from the output to an input, each before all that it hands its cotangents to.
  std::vector<torch::autograd::Node*> nodes;
  // Whether input j can be reached from the output.
  std::vector<bool> reaches_input;
  // Most bytes of cotangents that are alive at once for one row.
  int64_t peak_bytes_per_row = 0;
  // Bytes of cotangents that one row brings to all Nodes together.
  int64_t bytes_per_row = 0;
  // The worst that torch's vmap does to one of the Nodes.
  Distrust distrust = Distrust::kNone;
};

// Reads the tape in one depth-first walk: linear in the Nodes behind `output`. An output without a graph (an invalid
// edge) reaches nothing.
Tape read_tape(const torch::autograd::Edge& output, const torch::autograd::edge_list& inputs);

// Whether all cotangents that `node` takes are of `dtype`.
bool takes_dtype(const torch::autograd::Node& node, caffe2::TypeMeta dtype);

// Whether a Node that made an earlier version of `input`, before its latest `version` in-place changes, lies behind
// `output`: then a Jacobian by `input` as it is now would be zero only by mistake.
bool reaches_earlier_version(const torch::autograd::Edge& output, const torch::autograd::Edge& input, int64_t version);

} // namespace highgrad::tape
