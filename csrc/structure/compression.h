#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "structure/axes.h"
#include "structure/coloring.h"
#include "structure/sparsity_pattern.h"

namespace highgrad::structure {

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
  // Of the tape's Nodes, shapes and links; see AxisAnalysis.
  uint64_t signature = 0;
  // One sentence: how the pattern was found.
  std::string reason;
};

// The rows of a Jacobian by one input, by what ties its axes to those of the output, and a colouring of the rows, if
// rows do share colours: block diagonals in any order of axes. `inputs` are the ties of each input, of which none is
// without elements; the inputs' columns lie next to one another.
std::optional<Compression> compression_of_ties(int64_t rows, const std::vector<Digits>& inputs);

// How many rows share each colour at most and at least, whatever the values.
int64_t rows_a_color(int64_t rows, const std::vector<Digits>& inputs);

} // namespace highgrad::structure
