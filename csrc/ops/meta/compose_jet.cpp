#include "ops/compose_jet.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace highgrad::ops {
namespace {

at::Tensor compose_jet_meta(
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
  std::vector<int64_t> shape = x.sizes().vec();
  shape[0] = composition.rows(composition.order());
  return at::empty(shape, x.options());
}

std::tuple<at::Tensor, at::Tensor> compose_jet_backward_meta(
    const at::Tensor& by_rows,
    const at::Tensor& x,
    at::TensorList seeds,
    int64_t kind,
    at::ArrayRef<double> constants,
    int64_t terms,
    at::IntArrayRef counts,
    bool collapsed,
    const std::optional<at::Tensor>& weights) {
  check_compose_jet_backward(by_rows, x, composition_of(seeds, kind, constants, terms, counts, collapsed, weights));
  return {at::empty(x.sizes(), x.options()), at::empty(x.sizes().slice(1), x.options())};
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, Meta, m) {
  m.impl("compose_jet", TORCH_FN(highgrad::ops::compose_jet_meta));
  m.impl("compose_jet_backward", TORCH_FN(highgrad::ops::compose_jet_backward_meta));
}
