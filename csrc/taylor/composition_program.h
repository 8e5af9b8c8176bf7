#pragma once

#include <c10/util/irange.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "taylor/jet.h"
#include "taylor/vector_width.h"

namespace highgrad::taylor {

// Note [Composition programs]
// A composition of multivariate jets, and its reverse, as a list of products of rows, which is run for a block of
// elements at a time: what it costs to go through the monomials is shared by the block. Rows are told by their numbers.
struct ProductStep {
  int32_t sum;
  int32_t left;
  int32_t right;
  bool is_first; // of its sum
};

struct CompositionProgram {
  std::vector<ProductStep> steps;
  // The first row of x, of phi's series or that of its slope, of y or the slope's composition w, and backward of the
  // cotangents of y, of x, and that of x_0.
  int32_t x = 0, series = 0, y = 0, by_y = 0, by_x = 0, by_x0 = 0;
  int32_t rows = 0; // of all
};

// y = the sum of c_m h^m without its value: the rows c_1, ..., c_n stand at `series`. Kept for later calls.
std::shared_ptr<const CompositionProgram> forward_program(const Frame& frame, int64_t terms);

// w, the sum of s_m h^m, whose rows s_0, ..., s_n stand at `series`, with s_0 for its value; and with it the
// cotangents.
std::shared_ptr<const CompositionProgram> reverse_program(const Frame& frame, int64_t terms);

// rows: the places of all rows for these elements.
template <typename T>
HIGHGRAD_INLINE void run_steps(const CompositionProgram& program, T* const* rows, int64_t length) {
  for (const ProductStep& step : program.steps) {
    // No sum is a factor of itself.
    T* const __restrict sum = rows[step.sum];
    const T* const __restrict left = rows[step.left];
    const T* const __restrict right = rows[step.right];
    if (step.is_first) {
      for (int64_t e = 0; e < length; ++e) {
        sum[e] = left[e] * right[e];
      }
    } else {
      for (int64_t e = 0; e < length; ++e) {
        sum[e] += left[e] * right[e];
      }
    }
  }
}

} // namespace highgrad::taylor
