#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "taylor/jet.h"

// Arithmetic of truncated power series whose coefficients are tensors, and the elementary functions of them, each by
// the recurrence that its differential equation gives in O(n^2) (Griewank, Walther, "Evaluating Derivatives", 2nd ed.,
// chapter 13). All of it in recorded operations, so results are differentiable.

namespace highgrad::taylor {

class Series {
 public:
  Series() = default;
  explicit Series(at::Tensor value) : value_(std::move(value)) {}
  // value: [*shape]. The jet may be zero. `dim` is the number of dimensions of the tensors that this series is to
  // broadcast with, if that is more than its own.
  Series(const Frame& frame, const Jet& jet, at::Tensor value, int64_t dim = 0);

  // The series whose jet has these rows, of all orders.
  static Series of_rows(const Frame& frame, at::Tensor rows, at::Tensor value);

  const at::Tensor& value() const {
    return value_;
  }
  // The highest order whose coefficient may differ from zero.
  int64_t terms() const {
    return static_cast<int64_t>(uncut_.empty() ? coefficients_.size() : uncut_.size());
  }
  // The rows of all orders, ready to broadcast, where the series is still that of one jet; or undefined.
  at::Tensor rows(const Frame& frame) const;
  // The highest coefficient of a contracted frame: `rest` and the products that are not multiplied out. Asking for the
  // coefficient does that.
  const std::vector<Product>& products() const {
    return products_;
  }
  const at::Tensor& rest() const {
    cut();
    return coefficients_.back();
  }
  void push_contracted(const Frame& frame, at::Tensor rest, std::vector<Product> products);
  // Coefficient k, the value for k = 0; undefined if it is zero.
  const at::Tensor& operator[](int64_t k) const;
  void push(at::Tensor coefficient) {
    cut();
    coefficients_.push_back(std::move(coefficient));
  }
  Series with_value(at::Tensor value) const {
    Series result(*this);
    result.value_ = std::move(value);
    return result;
  }
  // Where nothing is recorded: room for all coefficients as the rows of one jet, row_shape being that of the first.
  void allocate(const Frame& frame, at::IntArrayRef row_shape);
  // The place of coefficient k there, or undefined.
  at::Tensor slot(const Frame& frame, int64_t k) const;
  Jet jet(const Frame& frame) const;

  // The same map of every coefficient, and one of the value, for linear functions.
  template <typename Map>
  Series map(Map&& function) const {
    Series result(function(value_));
    for (int64_t k = 1; k <= terms(); ++k) {
      const at::Tensor& coefficient = (*this)[k];
      result.push(coefficient.defined() ? function(coefficient) : at::Tensor());
    }
    return result;
  }

 private:
  void cut() const;

  at::Tensor value_;
  mutable std::vector<at::Tensor> coefficients_;
  // The number of rows of each order, until coefficients are asked for: what takes all rows at once need not record
  // that they were cut.
  mutable std::vector<int64_t> uncut_;
  mutable std::vector<Product> products_;
  std::shared_ptr<const Monomials> monomials_; // of the products
  at::Tensor rows_;
  // Whether the coefficients are, or are to be put, in `rows_`.
  bool is_placed_ = false;
};

// Sum of a[j] * b[k - j] over j in [first, last]: one coefficient of a product. Undefined if that is zero.
// Written into `out` where that is defined and serves.
at::Tensor convolve(
    const Frame& frame,
    int64_t k,
    const Series& a,
    const Series& b,
    int64_t first,
    int64_t last,
    const at::Tensor& out = {});

Series add(const Frame& frame, const Series& a, const Series& b, double alpha = 1);
Series scale(const Frame& frame, const Series& a, double factor);
Series shift(const Series& a, double constant);
Series multiply(const Frame& frame, const Series& a, const Series& b);
Series square(const Frame& frame, const Series& a);
Series divide(const Frame& frame, const Series& a, const Series& b);
// a where `mask` is true, b elsewhere; the value too.
Series select(const Frame& frame, const at::Tensor& mask, const Series& a, const Series& b);

// y_k of y' = w x' from lower orders of y and w.
void push_integral(const Frame& frame, Series& y, int64_t k, const Series& x, const Series& w);
// All of them, for a known series w of the slope, of which orders below the frame's are used.
Series integrate(const Frame& frame, const Series& x, const Series& slope, at::Tensor value);

// y: the function's value, which the caller knows or saves from the forward pass.
Series exp(const Frame& frame, const Series& x, at::Tensor y);
Series log(const Frame& frame, const Series& x, at::Tensor y);
Series tanh(const Frame& frame, const Series& x, at::Tensor y);
Series tan(const Frame& frame, const Series& x, at::Tensor y);
Series sigmoid(const Frame& frame, const Series& x, at::Tensor y);
Series sqrt(const Frame& frame, const Series& x, at::Tensor y);
// x^exponent for x other than zero.
Series power(const Frame& frame, const Series& x, double exponent, at::Tensor y);
// x^exponent for a natural exponent of at least 1, by repeated squaring: any x.
Series natural_power(const Frame& frame, const Series& x, int64_t exponent);
// The function whose derivatives at x[0], divided by factorials, are derivatives[m - 1] for m = 1, ..., order.
Series compose(const Frame& frame, const Series& x, const std::vector<at::Tensor>& derivatives);

// log(exp(rate a) + exp(rate b)) / rate.
Series log_add_exp(const Frame& frame, const Series& a, const Series& b, double rate);

// Sine and its like: y'' = sign y, with the value of y'.
Series sine(const Frame& frame, const Series& x, at::Tensor y, const at::Tensor& slope, double sign);

} // namespace highgrad::taylor
