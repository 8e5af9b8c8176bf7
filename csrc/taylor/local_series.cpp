#include "taylor/local_series.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>

#include <utility>

#include "taylor/composition.h"

namespace highgrad::taylor {

at::Tensor expand_at(const PointwiseFunction& function, const at::Tensor& anchor, int64_t orders) {
  const at::NoGradGuard not_recorded;
  // The series of h itself: one direction, one order.
  const Frame frame{orders, 1, anchor.scalar_type(), false, {}};
  c10::DimVector shape(anchor.sizes());
  shape.insert(shape.begin(), 1);
  const at::Tensor one = at::ones(c10::DimVector(shape.size(), 1), anchor.options()).expand(shape);
  if (function.local && is_composed_by_element(frame, one, anchor)) {
    return compose_by_element(frame, {one, 1}, local_series(function, anchor, orders), anchor.sizes());
  }
  const Series series = function.series(frame, Series(frame, {one, 1}, anchor.detach()));
  const Jet jet = padded(frame, series.jet(frame), orders);
  shape[0] = orders;
  return jet.rows.expand(shape);
}

LocalSeries local_series(const PointwiseFunction& function, const at::Tensor& anchor, int64_t orders) {
  const at::NoGradGuard not_recorded;
  if (!function.local) {
    // By Nodes, which may unpack what they have saved by hooks that record it again, as checkpoints do.
    return {LocalKind::kGiven, {expand_at(function, anchor, orders)}};
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return function.local(anchor.detach());
}

} // namespace highgrad::taylor
