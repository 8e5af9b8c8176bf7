#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "structure/axes.h"
#include "structure/coloring.h"
#include "structure/sparsity_pattern.h"

namespace highgrad::structure {

struct ColoringLimits;

// Where the entries by some neighbouring columns lie, on one device.
struct EntryTensors {
  int64_t first_column = 0;
  int64_t columns = 0;
  at::Tensor source; // of entry k among the compressed ones
  at::Tensor row_ptr;
  at::Tensor col_ind;
  at::Tensor row_ind;
  std::optional<c10::Stream> stream = std::nullopt; // that they were copied on, and that alone need not wait for them
};

// Those that calls with one compression have made, from any thread.
struct KeptEntryTensors {
  std::mutex mutex;
  std::vector<EntryTensors> all;
};

// How the Jacobian of one output by some inputs, next to one another, is computed from few passes: what a plan keeps.
struct Compression {
  SparsityPattern pattern; // of the output's elements by those of all inputs
  // Whether columns share passes (forward mode) rather than rows (reverse mode); their colours.
  bool by_columns = false;
  Coloring coloring;
  // Columns, ascending, that are computed each in a forward pass of its own and that rows may share: see Bicoloring.
  std::vector<int64_t> full_columns = {};
  // Whether the pattern holds for all values of the tensors, so that it may be kept for another tape.
  bool is_global = false;
  // What elements are picked by; if there are any, the pattern holds for all tapes of this signature and these indices.
  // None for a pattern that holds for all, or for this point alone.
  std::vector<at::Tensor> indices = {};
  // Of the tape's Nodes, shapes and links; see AxisAnalysis.
  uint64_t signature = 0;
  // One sentence: how the pattern was found.
  std::string reason;
  // Made of the above when first used; shared by copies.
  std::shared_ptr<KeptEntryTensors> kept_tensors = std::make_shared<KeptEntryTensors>();
};

// Whether both compute the same Jacobians, in the same passes.
bool operator==(const Compression& a, const Compression& b);

// How many colours the rows of a Jacobian need, by what ties the digits of each input's index to those of the output's:
// the product of what each of the output's digits needs. No input is without elements.
int64_t colors_of_ties(int64_t rows, const std::vector<Digits>& inputs);

// How many entries the pattern of these ties has.
double entries_of_ties(int64_t rows, const std::vector<Digits>& inputs);

// The Jacobian by all inputs, whose columns lie next to one another, and a colouring of its rows or, if they may be
// used and are cheaper, its columns: block diagonals, bands, and products of them, in any order of axes. None where its
// passes would cost more than `most`.
std::optional<Compression> compression_of_ties(
    int64_t rows,
    const std::vector<Digits>& inputs,
    const ColoringLimits& limits,
    double most = std::numeric_limits<double>::infinity());

} // namespace highgrad::structure
