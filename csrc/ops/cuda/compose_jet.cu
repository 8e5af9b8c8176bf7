#include "ops/cuda/compose_jet.cuh"

#include "ops/cuda/dispatch.cuh"
#include "ops/cuda/launch.h"
#include "ops/launch_plan.h"

namespace highgrad::ops::cuda {
namespace {

template <typename real_t>
LocalEquation<real_t> rounded(const LocalEquation<double>& p) {
  const auto number = [](double value) { return static_cast<real_t>(value); };
  return {
      p.kind,
      p.slope_is_seed,
      {number(p.equation.constant), number(p.equation.linear), number(p.equation.square), number(p.equation.companion)},
      number(p.rate),
      number(p.threshold)};
}

// Calls body(TypeTag<T>, k) with the T that is named, and the least order of a kernel that holds the call's.
template <typename Body>
void dispatch_jet(ElementType type, int64_t order, const Body& body) {
  const auto with_order = [&](auto tag) {
    if (order <= 3) {
      body(tag, std::integral_constant<int, 3>());
    } else {
      body(tag, std::integral_constant<int, kMostComposedOrder>());
    }
  };
  if (type == ElementType::kFloat) {
    with_order(TypeTag<float>());
  } else {
    with_order(TypeTag<double>());
  }
}

} // namespace

void launch_compose_jet(
    void* rows,
    const void* x,
    ElementType type,
    const CompositionLayout& layout,
    const LocalEquation<double>& equation,
    cudaStream_t stream) {
  dispatch_jet(type, layout.order, [&](auto tag, auto most) {
    using real_t = typename decltype(tag)::type;
    constexpr int kOrder = decltype(most)::value;
    const LaunchPlan plan = plan_launch(layout.numel);
    compose_jet_kernel<kOrder, real_t><<<plan.grid, plan.block, 0, stream>>>(
        static_cast<real_t*>(rows), static_cast<const real_t*>(x), layout, rounded<real_t>(equation));
  });
}

void launch_reverse_jet(
    void* by_x,
    void* by_x0,
    const void* by_rows,
    const void* x,
    ElementType type,
    const CompositionLayout& layout,
    const LocalEquation<double>& equation,
    cudaStream_t stream) {
  dispatch_jet(type, layout.order, [&](auto tag, auto most) {
    using real_t = typename decltype(tag)::type;
    constexpr int kOrder = decltype(most)::value;
    const LaunchPlan plan = plan_launch(layout.numel);
    reverse_jet_kernel<kOrder, real_t><<<plan.grid, plan.block, 0, stream>>>(
        static_cast<real_t*>(by_x),
        static_cast<real_t*>(by_x0),
        static_cast<const real_t*>(by_rows),
        static_cast<const real_t*>(x),
        layout,
        rounded<real_t>(equation));
  });
}

} // namespace highgrad::ops::cuda
