#include "ops/compose_jet.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace highgrad::ops {
namespace {

at::Tensor compose_jet_meta(const at::Tensor& x, const Composition& composition) {
  return at::empty(shape_of_jet(x, composition), x.options());
}

std::tuple<at::Tensor, at::Tensor> compose_jet_backward_meta(
    const at::Tensor& /*by_rows*/,
    const at::Tensor& x,
    const Composition& /*composition*/) {
  return {at::empty(x.sizes(), x.options()), at::empty(x.sizes().slice(1), x.options())};
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, Meta, m) {
  m.impl("compose_jet", TORCH_FN(highgrad::ops::compose_jet_op<highgrad::ops::compose_jet_meta>));
  m.impl(
      "compose_jet_backward",
      TORCH_FN(highgrad::ops::compose_jet_backward_op<highgrad::ops::compose_jet_backward_meta>));
}
