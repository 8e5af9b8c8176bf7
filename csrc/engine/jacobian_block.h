#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "ops/assemble_rows.h"

namespace highgrad::engine {

// The Jacobian of one output by one input, made from rows that arrive in order. Without create_graph it is allocated
// once and every block of rows is written into its place; with it, one differentiable op joins the blocks at the end.
class JacobianBlock {
 public:
  // `out`, if given, is the tensor to write into, of the right shape, dtype and device.
  JacobianBlock(at::Tensor output, at::Tensor input, bool create_graph, std::optional<at::Tensor> out);

  // The next `num_rows` rows: shape [num_rows, *input.shape] in any strides, or undefined for zeros.
  void append(int64_t num_rows, at::Tensor rows);

  // A row, which may be the only one: shape input.shape, or undefined for zeros.
  void append_only_row(at::Tensor row);

  const at::Tensor& input() const {
    return input_;
  }

  // Whether a row that is not known to be zero has arrived.
  bool is_used() const {
    return used_;
  }

  // The Jacobian, of shape output.shape + input.shape. Rows that never arrived are zero.
  at::Tensor finish();

 private:
  std::vector<int64_t> rows_shape() const;
  std::vector<int64_t> result_shape() const;
  bool is_like_result(const at::Tensor& rows) const;
  bool may_become_result(const at::Tensor& rows) const;
  void write(int64_t num_rows, const at::Tensor& rows);

  at::Tensor output_;
  at::Tensor input_;
  std::optional<at::Tensor> out_;
  // Whether rows are kept for one op at the end, rather than written as they come.
  bool functional_;
  bool used_ = false;
  int64_t num_rows_ = 0;
  at::Tensor only_row_; // if it may become the result
  at::Tensor result_; // [output.numel(), *input.shape], when rows are written as they come
  ops::OptionalTensorList blocks_;
  std::vector<c10::SymInt> row_counts_;
};

} // namespace highgrad::engine
