#include "taylor/recorded_rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/generated/Functions.h>

namespace highgrad::taylor {

std::pair<torch::autograd::Edge, std::vector<int64_t>> edge_of_rows(const at::Tensor& rows) {
  std::vector<int64_t> shape = rows.sizes().vec();
  if (!rows.requires_grad()) {
    return {torch::autograd::Edge(), shape};
  }
  torch::autograd::Edge edge = torch::autograd::impl::gradient_edge(rows);
  auto* expand = dynamic_cast<torch::autograd::generated::ExpandBackward0*>(edge.function.get());
  if (expand != nullptr && expand->next_edge(0).is_valid()) {
    std::vector<int64_t> before;
    for (const c10::SymInt& size : expand->self_sym_sizes) {
      before.push_back(size.guard_int(__FILE__, __LINE__));
    }
    if (before.size() == shape.size()) {
      return {expand->next_edge(0), before};
    }
  }
  return {edge, shape};
}

bool repeats_as(const at::Tensor& rows, at::IntArrayRef shape) {
  for (const auto dim : c10::irange(rows.dim())) {
    if (rows.stride(dim) == 0 && rows.size(dim) > 1 && shape[dim] != 1) {
      return false;
    }
  }
  return true;
}

bool has_tangent(const at::Tensor& tensor) {
  return tensor.defined() && tensor._fw_grad(/*level=*/0).defined();
}

at::Tensor of_directions(const Frame& frame, const at::Tensor& sum) {
  c10::DimVector shape(sum.dim(), 1);
  shape[0] = frame.directions;
  if (frame.weights.defined()) {
    return sum * frame.weights.view(shape);
  }
  c10::DimVector sizes(sum.sizes());
  sizes[0] = frame.directions;
  return sum.expand(sizes);
}

at::Tensor with_all_rows(const Frame& frame, int64_t k, at::Tensor rows) {
  if (frame.counts.empty() || rows.size(0) >= frame.rows_of_order(k)) {
    return rows;
  }
  c10::DimVector shape(rows.sizes());
  shape[0] = frame.rows_of_order(k) - rows.size(0);
  return at::cat({rows, at::zeros(shape, rows.options())});
}

} // namespace highgrad::taylor
