#pragma once

#include <cstdint>
#include <vector>

#include "structure/coloring.h"

namespace highgrad::structure {

// Star colouring of the graph of a symmetric pattern: neighbours differ, and every path of four rows takes three
// colours, so that each entry (i, j) or its twin (j, i) is alone in its row of the compressed matrix. It needs at most
// as many colours as rows that share no column, often half. Greedy, rows with most entries first. (T. Coleman, J. More,
// "Estimation of sparse Hessian matrices and graph coloring problems", 1984; A. Gebremedhin, A. Tarafdar, F. Manne,
// A. Pothen, "New acyclic and star coloring algorithms", SIAM J. Sci. Comput. 29, 2007, algorithm 4.1.)
Coloring star_coloring(const SparsityPattern& pattern);

// For every entry k of the pattern, where the compressed matrix of shape [num_colors, rows], whose row c is the sum of
// the rows of colour c, has it: color * rows + column. Entries (i, j) and (j, i) may come from one place.
std::vector<int64_t> star_sources(const SparsityPattern& pattern, const Coloring& coloring);

} // namespace highgrad::structure
