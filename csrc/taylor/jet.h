#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "taylor/monomials.h"

namespace highgrad::taylor {

// Note [Jets]
// f(x + t v) = f(x) + c_1 t + ... + c_n t^n. The jet of a tensor on the tape holds its coefficients c_1, ..., c_n along
// D directions v at once; c_0, the tensor itself, is not needed but at nonlinear Nodes, which have saved what gives it.
// The rows of a jet have the shape [terms * D, *shape], order after order, so that a linear Node maps all orders and
// directions in one operation. Coefficients past `terms` are zero.
//
// Collapsed (Dangel, Siebert, Zeinhofer, Walther, "Collapsing Taylor mode automatic differentiation", 2025): the
// coefficient of the highest order n enters every rule linearly, so a weighted sum of it over the directions flows
// through the tape as one row in place of D.
//
// Multivariate: as a function of the direction, c_k is a homogeneous polynomial of degree k in the coordinates of v.
// Its C(N + k - 1, k) coefficients, one for each sorted multi-index, take the place of the D rows of order k, and the
// product of two polynomials that of two rows. An identity that holds along every direction holds for the polynomials,
// so the recurrences are the same; where all partial derivatives are wanted, there are fewer rows, none computed twice,
// and nothing to interpolate. Where some are wanted, their multi-indices and the divisors of these are enough.

// Directions, first to last without that, of the same highest order.
struct DirectionGroup {
  int64_t first;
  int64_t last;
  int64_t order;
};

// What all jets of one sweep have in common.
struct Frame {
  int64_t order; // n
  int64_t directions; // D
  at::ScalarType dtype; // of all coefficients
  bool collapsed = false;
  at::Tensor weights; // [D] of the collapsed sum, or undefined for ones
  std::shared_ptr<const Monomials> monomials = nullptr; // of multivariate jets, or null
  // Multivariate, with the highest order as products that are not multiplied out. See Note [Contracted jets].
  bool contracted = false;
  // How many directions reach each order, 1 first, where they differ: those of higher order come first. Or empty.
  std::vector<int64_t> counts = {};

  bool is_multivariate() const {
    return monomials != nullptr;
  }
  int64_t rows_of_order(int64_t k) const;
  // Of all orders up to `terms`.
  int64_t rows(int64_t terms) const;
  // The first row of order k, at k - 1.
  std::vector<int64_t> first_rows() const;
  bool contracts(int64_t k) const {
    return contracted && k == order;
  }
  // All directions, in order.
  std::vector<DirectionGroup> groups() const;
  // What rows of any order contribute to a product of order k: directions that end below it do not.
  at::Tensor reaching(int64_t k, const at::Tensor& rows) const {
    return counts.empty() || rows.size(0) == counts[k - 1] ? rows : rows.narrow(0, 0, counts[k - 1]);
  }
  // For series that are only needed below the highest order.
  Frame lowered() const {
    return {order - 1, directions, dtype, false, {}, monomials, false, counts};
  }
};

// Note [Contracted jets]
// f_n, the polynomial of highest order of an output f, is linear in those of all tensors between: it is the sum over
// all Nodes of <cotangent of the Node's output, what the Node makes of lower orders>. So no coefficient of order n
// flows through the tape: one vector-Jacobian product gives the cotangents, each Node hands over what it makes as a sum
// of products of polynomials of lower order, and each of these is contracted with the cotangent in one product of
// matrices before the polynomials are multiplied: sum_e u[e] a[i, e] b[j, e] for all pairs (i, j) of their
// coefficients.
struct Product {
  at::Tensor a; // rows of order order_a
  at::Tensor b; // rows of order n - order_a
  int64_t order_a;
  double factor;
  at::Tensor weight; // of the value's shape, or undefined for ones
};

struct Jet {
  at::Tensor rows;
  int64_t terms = 0;
  // Of contracted jets: what is to be added to the coefficient of the highest order.
  std::vector<Product> products = {};

  bool is_zero() const {
    return terms == 0 && products.empty();
  }
};

// Thrown by a rule that meets a case it does not know.
class Unsupported : public std::exception {
 public:
  explicit Unsupported(std::string reason) : reason_(std::move(reason)) {}
  const char* what() const noexcept override {
    return reason_.c_str();
  }

 private:
  std::string reason_;
};

// Inserts dimensions of size 1 after the first, so that `rows` [R, *shape] broadcasts like a tensor of `dim`
// dimensions.
at::Tensor align(const at::Tensor& rows, int64_t dim);

// The rows of order k, [rows_of_order(k), *shape]; undefined past the jet's terms.
at::Tensor coefficient(const Frame& frame, const Jet& jet, int64_t k);

// The jet of given coefficients, where an undefined one is zero.
Jet join(const Frame& frame, const std::vector<at::Tensor>& coefficients);

// The jet with zeros appended up to `terms`.
Jet padded(const Frame& frame, const Jet& jet, int64_t terms);

// Sum of two jets whose shapes broadcast.
Jet add(const Frame& frame, const Jet& a, const Jet& b);

// The sum of products of the order n of contracted jets, and of `rest` where that is defined.
at::Tensor multiply_out(
    const Monomials& monomials,
    int64_t n,
    const std::vector<Product>& products,
    const at::Tensor& rest);

// The same jet without products.
Jet multiplied_out(const Frame& frame, const Jet& jet);

Jet scaled(const Jet& jet, double factor);

// The product of the rows of order j of one jet and of order l of another, element by element with broadcasting.
at::Tensor multiply_rows(const Frame& frame, int64_t j, const at::Tensor& a, int64_t l, const at::Tensor& b);

// The weighted sum over directions: [D, *shape] -> [1, *shape].
at::Tensor sum_directions(const Frame& frame, const at::Tensor& rows);

} // namespace highgrad::taylor
