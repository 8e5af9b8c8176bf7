#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "ops/local_element.h"

namespace highgrad::ops {

// How the jet of phi(x) comes from that of x, element by element; see Note [Compositions] in taylor/composition.h. Rows
// of a jet lie order after order, those of a direction at its number within each. None of it is differentiable: jets
// record themselves.
struct Composition {
  LocalEquation<double> equation;
  std::vector<at::Tensor> seeds; // of x_0's shape; of a given series [orders, *shape], at least
  int64_t terms; // orders of x
  std::vector<int64_t> counts; // directions that reach each order, 1 first
  bool collapsed; // the highest order is one row, the sum over directions
  at::Tensor weights; // [directions] of that sum, or undefined for ones

  int64_t order() const {
    return static_cast<int64_t>(counts.size());
  }
  // Of a jet with so many orders.
  int64_t rows(int64_t orders) const;
};

// Whether there is a kernel for a jet of this order.
bool has_compose_jet(c10::Device device, int64_t order);

// x: [rows, *shape] in any strides, of the seeds' dtype, float or double. The same with the rows of all orders.
at::Tensor compose_jet(const at::Tensor& x, const Composition& composition);

// From the cotangent of those rows: that of x, of its shape, and that of x_0. A series has one order more.
std::tuple<at::Tensor, at::Tensor> compose_jet_backward(
    const at::Tensor& by_rows,
    const at::Tensor& x,
    const Composition& composition);

// What the kernels of all devices check first. slope_orders: that a given series has past the composition's.
void check_compose_jet(const at::Tensor& x, const Composition& composition, int64_t slope_orders);
void check_compose_jet_backward(const at::Tensor& by_rows, const at::Tensor& x, const Composition& composition);

// A composition as the operators take it.
Composition composition_of(
    at::TensorList seeds,
    int64_t kind,
    at::ArrayRef<double> constants,
    int64_t terms,
    at::IntArrayRef counts,
    bool collapsed,
    const std::optional<at::Tensor>& weights);

// What is registered of functions that take the arguments checked.
template <at::Tensor (*compose)(const at::Tensor& x, const Composition& composition)>
at::Tensor compose_jet_op(
    const at::Tensor& x,
    at::TensorList seeds,
    int64_t kind,
    at::ArrayRef<double> constants,
    int64_t terms,
    at::IntArrayRef counts,
    bool collapsed,
    const std::optional<at::Tensor>& weights) {
  const Composition composition = composition_of(seeds, kind, constants, terms, counts, collapsed, weights);
  check_compose_jet(x, composition, /*slope_orders=*/0);
  return compose(x, composition);
}

template <std::tuple<at::Tensor, at::Tensor> (
    *reverse)(const at::Tensor& by_rows, const at::Tensor& x, const Composition& composition)>
std::tuple<at::Tensor, at::Tensor> compose_jet_backward_op(
    const at::Tensor& by_rows,
    const at::Tensor& x,
    at::TensorList seeds,
    int64_t kind,
    at::ArrayRef<double> constants,
    int64_t terms,
    at::IntArrayRef counts,
    bool collapsed,
    const std::optional<at::Tensor>& weights) {
  const Composition composition = composition_of(seeds, kind, constants, terms, counts, collapsed, weights);
  check_compose_jet_backward(by_rows, x, composition);
  return reverse(by_rows, x, composition);
}

// The shape of the jet of phi(x).
std::vector<int64_t> shape_of_jet(const at::Tensor& x, const Composition& composition);

// How many elements of [R, *shape] repeat along the leading dimensions of `shape`, or 0 if its memory is laid out
// otherwise.
int64_t find_period(const at::Tensor& rows);

} // namespace highgrad::ops
