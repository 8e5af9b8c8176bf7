#include "engine/jacobian_block.h"

#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/empty.h>

#include <utility>

#include "ops/joined_shape.h"
#include "tape/plain_tensor.h"

namespace highgrad::engine {
namespace {

// Bytes.
constexpr double kLargeResult = 1e9;

} // namespace

JacobianBlock::JacobianBlock(at::Tensor output, at::Tensor input, bool create_graph, std::optional<at::Tensor> out)
    : output_(std::move(output)),
      input_(std::move(input)),
      out_(std::move(out)),
      functional_(create_graph || !tape::is_plain(input_)) {
  // What is joined at the end fails now if it is too large, rather than when most of the memory is taken.
  const double bytes = static_cast<double>(output_.numel()) * static_cast<double>(input_.nbytes());
  if (functional_ && tape::is_plain(input_) && bytes > kLargeResult) {
    at::empty(rows_shape(), input_.options().layout(at::kStrided));
  }
}

// All rows: [output.numel(), *input.shape].
std::vector<int64_t> JacobianBlock::rows_shape() const {
  return ops::joined_shape(output_.numel(), input_.sizes());
}

std::vector<int64_t> JacobianBlock::result_shape() const {
  return ops::joined_shape(output_.sizes(), input_.sizes());
}

// Whether what `rows` hold may be handed over as it is, in memory that nobody else can see, and of which it is all.
bool JacobianBlock::is_like_result(const at::Tensor& rows) const {
  return !out_.has_value() && tape::is_plain(rows) && rows.is_contiguous() &&
      rows.scalar_type() == input_.scalar_type() && rows.device() == input_.device() && !tape::shares_memory(rows) &&
      rows.storage().nbytes() == rows.nbytes();
}

// Whether `rows` are the whole result already.
bool JacobianBlock::may_become_result(const at::Tensor& rows) const {
  return num_rows_ == 0 && rows.size(0) == output_.numel() && is_like_result(rows);
}

void JacobianBlock::append_only_row(at::Tensor row) {
  if (output_.numel() == 1 && row.defined() && !row.is_view() && !row.is_conj() && !row.is_neg() &&
      is_like_result(row)) {
    used_ = true;
    num_rows_ = 1;
    only_row_ = std::move(row);
  } else {
    append(1, row.defined() ? row.unsqueeze(0) : row);
  }
}

void JacobianBlock::append(int64_t num_rows, at::Tensor rows) {
  if (rows.defined()) {
    used_ = true;
    // Lazy conjugates and negatives become values here.
    rows = rows.resolve_conj().resolve_neg();
  }
  if (rows.defined() && may_become_result(rows)) {
    result_ = std::move(rows);
  } else if (functional_) {
    blocks_.push_back(rows.defined() ? std::optional<at::Tensor>(std::move(rows)) : std::nullopt);
    row_counts_.emplace_back(num_rows);
  } else {
    write(num_rows, rows);
  }
  num_rows_ += num_rows;
}

void JacobianBlock::write(int64_t num_rows, const at::Tensor& rows) {
  if (!result_.defined()) {
    const std::vector<int64_t> shape = rows_shape();
    result_ = out_.has_value() && out_->is_contiguous() ? out_->view(shape)
                                                        : at::empty(shape, input_.options().layout(at::kStrided));
  }
  ops::assemble_rows_(
      num_rows == output_.numel() ? result_ : result_.narrow(0, num_rows_, num_rows),
      rows.defined() ? std::optional<at::Tensor>(rows) : std::nullopt);
}

at::Tensor JacobianBlock::finish() {
  if (only_row_.defined()) {
    return output_.dim() == 0 ? only_row_ : at::_unsafe_view(only_row_, result_shape());
  }
  if (!blocks_.empty()) {
    return ops::assemble_rows(blocks_, row_counts_, output_.sym_sizes(), input_);
  }
  if (out_.has_value()) {
    if (!result_.defined()) {
      out_->zero_();
    } else if (!out_->is_contiguous()) {
      out_->copy_(result_.view(out_->sizes()));
    }
    return *out_;
  }
  // Not a view: those made without grad mode must not be changed in place by what requires grad.
  return result_.defined() ? at::_unsafe_view(result_, result_shape()) : input_.new_zeros(result_shape());
}

} // namespace highgrad::engine
