#pragma once

#include <ATen/core/Tensor.h>

#include "taylor/series.h"

namespace highgrad::taylor {

// The slope w of y' = w x', with w as a series that y gives: w_k = linear * y_k + square * (y * y)_k for k > 0, or, by
// an equation of its own, w' = companion * y x'. The value of w is given beside it.
struct Slope {
  double linear = 0;
  double square = 0;
  double companion = 0;
};

// Whether the functions below serve: not where something is to be recorded, off the CPU, or where x broadcasts.
bool is_solved_by_element(const Frame& frame, const Series& x, const at::Tensor& y0, const at::Tensor& w0);

// The solution y of y' = w x' with the values y0 and w0, as the rows of its jet: every element by itself, all its
// orders in one pass over memory. Undefined where that does not serve.
at::Tensor solve_by_element(
    const Frame& frame,
    const Series& x,
    const at::Tensor& y0,
    const at::Tensor& w0,
    const Slope& slope);

// Likewise of multivariate jets, with the rows of w beside those of y.
struct Solution {
  at::Tensor y;
  at::Tensor w;
};
Solution solve_polynomials(
    const Frame& frame,
    const Series& x,
    const at::Tensor& y0,
    const at::Tensor& w0,
    const Slope& slope);

} // namespace highgrad::taylor
