#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "structure/sparsity_pattern.h"

namespace highgrad::structure {

// Note [Colours]
// Rows of one colour share no column, so one vector-Jacobian product, with the sum of their unit vectors, has each of
// their entries alone in its column. (A. Curtis, M. Powell, J. Reid, "On the estimation of sparse Jacobian matrices",
// 1974; A. Gebremedhin, F. Manne, A. Pothen, "What color is your Jacobian?", SIAM Review 47, 2005.) Columns of one
// colour, which share no row, are the same on the transposed pattern.
struct Coloring {
  // Of each row, from 0 to num_colors - 1.
  std::vector<int64_t> colors;
  int64_t num_colors = 0;
};

// In which order greedy colouring takes the rows (Gebremedhin, Manne, Pothen, section 7).
enum class Order { kNatural, kLargestFirst, kSmallestLast, kIncidenceDegree };

// Each row in turn takes the least colour that no row has with which it shares a column. `transposed` is the transpose
// of `pattern`. Memory linear in rows and entries; time linear in the sum of squared column degrees
// or, where that is less and the matrix has few elements, in rows times colours.
Coloring greedy_coloring(const SparsityPattern& pattern, const SparsityPattern& transposed, Order order);

// Least number of colours, without search, for rows whose first and last columns both ascend: diagonal, banded and
// block-diagonal patterns, which take their colours in turn. None where the rows do not ascend, or where taking turns
// needs more colours than the fullest column forces.
std::optional<Coloring> closed_form_coloring(const SparsityPattern& pattern, const SparsityPattern& transposed);

// Closed form if there is one; otherwise the best of the greedy orders, as many as `max_work` steps allow, stopping at
// the lower bound. None if even one takes more than that.
std::optional<Coloring> color_rows(const SparsityPattern& pattern, const SparsityPattern& transposed, int64_t max_work);

// Steps of one greedy colouring: the sum of squared column degrees, capped.
int64_t greedy_work(const SparsityPattern& transposed);

} // namespace highgrad::structure
