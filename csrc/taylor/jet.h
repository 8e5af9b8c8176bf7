#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <string>
#include <vector>

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

// What all jets of one sweep have in common.
struct Frame {
  int64_t order; // n
  int64_t directions; // D
  at::ScalarType dtype; // of all coefficients
  bool collapsed = false;
  at::Tensor weights; // [D] of the collapsed sum, or undefined for ones

  int64_t rows_of_order(int64_t k) const {
    return collapsed && k == order ? 1 : directions;
  }
  int64_t rows(int64_t terms) const {
    return terms == 0 ? 0 : (terms - 1) * directions + rows_of_order(terms);
  }
  // For series that are only needed below the highest order.
  Frame lowered() const {
    return {order - 1, directions, dtype, false, {}};
  }
};

struct Jet {
  at::Tensor rows;
  int64_t terms = 0;

  bool is_zero() const {
    return terms == 0;
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

Jet scaled(const Jet& jet, double factor);

// The weighted sum over directions: [D, *shape] -> [1, *shape].
at::Tensor sum_directions(const Frame& frame, const at::Tensor& rows);

} // namespace highgrad::taylor
