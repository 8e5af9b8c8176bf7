#pragma once

#include <ATen/core/Tensor.h>

#include "ops/recurrence_element.h"
#include "taylor/series.h"

namespace highgrad::taylor {

// The slope w of y' = w x', with w as a series that y gives: w = constant + linear * y + square * y * y, or, by an
// equation of its own, w' = companion * y x', with the value of w given beside that of y.
struct Slope {
  double constant = 0;
  double linear = 0;
  double square = 0;
  double companion = 0;
};

// The same in the dtype of the elements.
template <typename T>
ops::ElementEquation<T> element_equation(const Slope& slope) {
  return {
      static_cast<T>(slope.constant),
      static_cast<T>(slope.linear),
      static_cast<T>(slope.square),
      static_cast<T>(slope.companion)};
}

// The value of w that y0 gives.
at::Tensor slope_of_value(const Slope& slope, const at::Tensor& y0);

// Whether the functions below serve: in float or double, on the CPU, and where x does not broadcast. An undefined w0 is
// the one that y0 gives. They record nothing; see Note [Recorded solutions].
bool is_solved_by_element(const Frame& frame, const Series& x, const at::Tensor& y0, const at::Tensor& w0);

// The solution y of y' = w x' with the values y0 and w0, as the rows of its jet: every element by itself, all its
// orders in one pass over memory.
at::Tensor solve_by_element(
    const Frame& frame,
    const Series& x,
    const at::Tensor& y0,
    const at::Tensor& w0,
    const Slope& slope);

// What a solution is made from.
struct Operands {
  Jet x;
  at::Tensor y0;
  at::Tensor w0;
};

struct Cotangents {
  at::Tensor x; // the rows of a jet; of size 1 along dimensions that x repeats along
  at::Tensor y0;
  at::Tensor w0;
};

// The reverse of it, likewise in one pass: from the cotangent of the solution's rows to those of its operands.
Cotangents reverse_by_element(
    const Frame& frame,
    const Operands& operands,
    const Slope& slope,
    const at::Tensor& by_solution);

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
