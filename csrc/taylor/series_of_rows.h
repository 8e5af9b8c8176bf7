#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "taylor/rule.h"

namespace highgrad::taylor {

// The rows of a jet as functions of a further direction, for the rules of recorded Nodes. `inner` is the Node's own
// frame, `outer` that of the call. Tensors are [rows of inner orders, *shape], and their coefficients
// [rows of outer orders, ...].
class SeriesOfRows {
 public:
  // x: the rows that the Node takes as that input. rank: dimensions of a value.
  SeriesOfRows(const Call& call, const Frame& inner, const at::Tensor& x, int64_t rank, size_t input = 0);

  // The dimension of `rows` that counts inner ones; negative for values, which have none.
  int64_t row_dim(const at::Tensor& rows) const {
    return rows.dim() - 1 - rank_;
  }
  // Of x.
  Series of_order(int64_t k) const;
  // Those rows that a product of order k has: of the values, which all directions share, the only one.
  Series reaching(int64_t k, const Series& series) const;
  Series sum_of_directions(const Series& series) const;
  // [rows of outer orders, rows of inner orders, *shape], of y[1], ..., by inner order.
  Jet jet(const std::vector<Series>& y) const;

 private:
  const Frame& outer_;
  const Frame& inner_;
  int64_t rank_;
  Series x_;
};

} // namespace highgrad::taylor
