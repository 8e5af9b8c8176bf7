#pragma once

#include <ATen/core/Tensor.h>

#include "taylor/jet.h"
#include "taylor/local_series.h"

namespace highgrad::taylor {

// Note [Compositions]
// The jet of phi(x), element by element, is phi's own Taylor series at x_0 with x - x_0 in place of its variable: all
// directions share the series, and Horner's rule is left, whatever phi. Nor does its reverse know phi: a change of x by
// u changes phi(x) by w u, with w = phi'(x), so the cotangent of x_j is the sum over k of that of y_k times w_(k-j).
// For j = 0, too, where all directions are summed. w is a composition itself, of the series of phi'. One function so
// goes through memory once, forward and backward. Of multivariate jets, likewise with polynomials for numbers.

// Whether the functions below serve: in float or double, on the CPU or, of orders that its kernels have, on CUDA, and
// where x does not broadcast.
bool is_composed_by_element(const Frame& frame, const at::Tensor& rows, const at::Tensor& anchor);

// The rows of phi(x), of all orders. x: the rows of its jet, of `terms` orders.
at::Tensor compose_by_element(const Frame& frame, const Jet& x, const LocalSeries& local, at::IntArrayRef shape);

struct ComposedCotangents {
  at::Tensor x; // the rows of a jet; of size 1 along dimensions that x repeats along
  at::Tensor x0;
};

// From the cotangent of those rows. The series has one order more than the frame.
ComposedCotangents reverse_composition(
    const Frame& frame,
    const Jet& x,
    const LocalSeries& local,
    const at::Tensor& by_rows);

} // namespace highgrad::taylor
