#include "ops/compose_jet.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/accumulate.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include "ops/cuda/launch.h"
#include "ops/cuda/scalar_type.h"

namespace highgrad::ops::cuda {
namespace {

// What the kernels take, contiguous, for as long as the object lives. x keeps rows that repeat.
struct Arguments {
  Arguments(const at::Tensor& from, const Composition& composition)
      : period(find_period(from)), x(period > 0 ? from : from.contiguous()) {
    TORCH_CHECK(
        composition.order() <= kMostComposedOrder,
        "compose_jet: expected at most ",
        kMostComposedOrder,
        " orders on CUDA, got ",
        composition.order());
    layout = {};
    for (const auto i : c10::irange(composition.seeds.size())) {
      tensors.push_back(composition.seeds[i].contiguous());
      layout.seeds[i] = tensors.back().const_data_ptr();
    }
    if (composition.weights.defined()) {
      tensors.push_back(composition.weights.contiguous());
      layout.weights = tensors.back().const_data_ptr();
    }
    layout.numel = c10::multiply_integers(x.sizes().slice(1));
    layout.period = period > 0 ? period : layout.numel;
    layout.order = composition.order();
    layout.terms = composition.terms;
    layout.collapsed = composition.collapsed ? 1 : 0;
    for (const auto k : c10::irange(composition.order())) {
      layout.counts[k] = composition.counts[k];
      layout.first_rows[k] = composition.rows(k);
    }
    layout.highest_row = layout.first_rows[composition.order() - 1];
  }

  int64_t period;
  at::Tensor x;
  std::vector<at::Tensor> tensors;
  CompositionLayout layout;
};

at::Tensor compose_jet_cuda(const at::Tensor& x, const Composition& composition) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Arguments arguments(x, composition);
  at::Tensor rows = at::empty(shape_of_jet(x, composition), x.options());
  if (rows.numel() > 0) {
    launch_compose_jet(
        rows.mutable_data_ptr(),
        arguments.x.const_data_ptr(),
        element_type(x.scalar_type()),
        arguments.layout,
        composition.equation,
        c10::cuda::getCurrentCUDAStream().stream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return rows;
}

std::tuple<at::Tensor, at::Tensor> compose_jet_backward_cuda(
    const at::Tensor& by_rows,
    const at::Tensor& x,
    const Composition& composition) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Arguments arguments(x, composition);
  const at::Tensor cotangents = by_rows.contiguous();
  at::Tensor by_x = at::empty(x.sizes(), x.options());
  at::Tensor by_x0 = at::empty(x.sizes().slice(1), x.options());
  if (by_x0.numel() > 0) {
    launch_reverse_jet(
        by_x.mutable_data_ptr(),
        by_x0.mutable_data_ptr(),
        cotangents.const_data_ptr(),
        arguments.x.const_data_ptr(),
        element_type(x.scalar_type()),
        arguments.layout,
        composition.equation,
        c10::cuda::getCurrentCUDAStream().stream());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {by_x, by_x0};
}

} // namespace
} // namespace highgrad::ops::cuda

TORCH_LIBRARY_IMPL(highgrad_ext, CUDA, m) {
  m.impl("compose_jet", TORCH_FN(highgrad::ops::compose_jet_op<highgrad::ops::cuda::compose_jet_cuda>));
  m.impl(
      "compose_jet_backward",
      TORCH_FN(highgrad::ops::compose_jet_backward_op<highgrad::ops::cuda::compose_jet_backward_cuda>));
}
