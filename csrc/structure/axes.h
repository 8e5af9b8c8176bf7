#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "structure/digits.h"
#include "structure/node_table.h"
#include "tape/tape.h"

namespace highgrad::structure {

// What the axes of one input have to do with those of the output.
struct Ties {
  // An entry of the Jacobian is zero, whatever the values, unless all tied digits agree.
  Digits upper;
  // An entry may be nonzero if all tied digits agree; none if the table cannot tell.
  std::optional<Digits> lower;
};

struct AxisAnalysis {
  // Of each input; empty digits and no lower ones for an input off the tape.
  std::vector<Ties> inputs;
  // Whether every Node that a sweep runs is in the table; whether, besides, NaN probes may be trusted; and whether all
  // of them have the same pattern for all values.
  bool is_known = true;
  bool keeps_nan = true;
  // Whether a Node is known to lose NaN.
  bool loses_nan = false;
  bool is_global = true;
  // The first Node whose backward may not be linear: a custom Function, or one with hooks. Null if there is none.
  torch::autograd::Node* not_linear = nullptr;
  // What elements are picked by, in the order of the walk: see NodeAttributes.
  std::vector<at::Tensor> indices;
  // Of the Nodes, their shapes, what they have saved and how they are linked: equal for tapes of equal global pattern.
  uint64_t signature = 0;
};

// The sizes of a cotangent, or none where they are not known, or there are no elements.
std::optional<Shape> known_shape(const torch::autograd::Node& node, uint32_t input_nr);

// What is to be told.
enum class Detail {
  kTies, // neither indices nor a signature, and is_global may be wrong
  kSignature, // and indices, but no ties: takes the same for axes of all sizes
  kAll,
};

// One walk along the tape: linear in its Nodes, touches no tensor's data. None for shapes that are not known, or empty.
// Of ties alone, windows are followed for so many positions: those beyond count as free.
std::optional<AxisAnalysis> analyze_axes(
    const tape::Tape& tape,
    Detail detail = Detail::kAll,
    int64_t positions = std::numeric_limits<int64_t>::max());

// Of the output's index, the part above `rest`, which counts samples: how many of them `digits` tie.
int64_t tied_samples(const Digits& digits, int64_t rest);

// Whether each of `samples` samples of a tensor, of `own` elements, depends on one sample of the output alone, of
// `rest` elements, in order.
bool keeps_samples_apart(const Digits& digits, int64_t samples, int64_t rest, int64_t own);

// Of a tensor with `own` elements for each sample: how often all samples follow one another, each depending on its
// sample of the output alone. None where they do not.
std::optional<int64_t> runs_of_samples(const Digits& digits, int64_t samples, int64_t rest, int64_t own);

// Which of a tape's tensors have the samples of its output, apart.
struct TapeSamples {
  // By slot, in the order of tape::SlotNumbers: runs_of_samples, or 0.
  std::vector<int64_t> runs;
  // By Node: whether all that cotangents arrive at have them.
  std::vector<bool> has_samples;
};

// Behind Nodes without samples nothing is said to have them. None where a Node may not be linear, and for shapes that
// are not known, or empty.
std::optional<TapeSamples> samples_of_tape(const tape::Tape& tape, int64_t samples, int64_t rest);

// The Node, or null, at or before which samples mix: the first, from the output on, whose backward ties fewer samples
// to those of the output than what it takes. Where only an operand without samples was broadcast, those that it is
// computed from are looked at instead. `rest` is the number of elements of one sample of the output.
torch::autograd::Node* find_mixing_node(const tape::Tape& tape, int64_t rest);

} // namespace highgrad::structure
