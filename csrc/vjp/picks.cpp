// Rules of elements that are taken from, or put to, places that a Node has saved.

#include <ATen/ExpandUtils.h>
#include <ATen/Functions.h>
#include <c10/util/accumulate.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// Cotangents as rows of elements in row-major order.
at::Tensor as_rows(const at::Tensor& grad) {
  return grad.reshape({grad.size(0), -1});
}

int64_t count(const Shape& shape) {
  return c10::multiply_integers(shape);
}

// Positions of `index` in row-major order, not negative, in one row.
at::Tensor flat(const at::Tensor& index, int64_t numel) {
  return at::where(index.lt(0), index + numel, index).reshape({-1});
}

void add_takes(RuleTable& table) {
  add_rule<TakeBackward0>(table, [](const Call& call, const TakeBackward0& node) -> BatchedVjp {
    const Shape shape = *call.given[0];
    return [shape, index = flat(call.saved(node.index_), count(shape))](Cotangents& taken, Cotangents& given) {
      const at::Tensor rows = as_rows(taken[0]);
      given[0] = at::zeros({rows.size(0), count(shape)}, rows.options())
                     .index_add_(1, index, rows)
                     .view(Call::batch_of(rows, shape));
    };
  });
  // The mask and what it selects from are broadcast. Each place reads the row that was selected last, its own if it was
  // selected itself: no device is waited for.
  add_unary<MaskedSelectBackward0>(table, [](const Call& call, const MaskedSelectBackward0& node) {
    const Shape shape = *call.given[0];
    const at::Tensor saved = call.saved(node.mask_);
    const Shape whole = at::infer_size(shape, saved.sizes());
    const at::Tensor mask = saved.expand(whole);
    const at::Tensor last = mask.reshape(-1).cumsum(0).sub_(1).clamp_min_(0);
    return [shape, whole, mask, last](const at::Tensor& rows) {
      if (rows.size(1) == 0) {
        return at::zeros(Call::batch_of(rows, shape), rows.options());
      }
      const at::Tensor spread = rows.index_select(1, last).view(Call::batch_of(rows, whole));
      return sum_broadcast(keep_where(mask, spread), 1, shape);
    };
  });
  add_rule<PutBackward0>(table, [](const Call& call, const PutBackward0& node) -> BatchedVjp {
    return [shapes = call.given,
            index = flat(call.saved(node.index_), count(call.taken[0])),
            accumulate = node.accumulate](Cotangents& taken, Cotangents& given) {
      const at::Tensor grad = std::move(taken[0]);
      if (shapes[1].has_value()) {
        given[1] = as_rows(grad).index_select(1, index).view(Call::batch_of(grad, *shapes[1]));
      }
      if (shapes[0].has_value()) {
        given[0] = accumulate ? grad : as_rows(grad).index_fill(1, index, 0).view(grad.sizes());
      }
    };
  });
  // The places of the mask take the first elements of the source.
  add_rule<MaskedScatterBackward0>(table, [](const Call& call, const MaskedScatterBackward0& node) -> BatchedVjp {
    const at::Tensor mask = call.saved(node.mask_);
    const at::Tensor places = mask.expand(call.taken[0]).reshape({-1}).nonzero().squeeze(1);
    return [shapes = call.given, mask, places](Cotangents& taken, Cotangents& given) {
      const at::Tensor& grad = taken[0];
      given[0] = shapes[0].has_value() ? grad.masked_fill(mask, 0) : at::Tensor();
      if (shapes[1].has_value()) {
        given[1] = at::constant_pad_nd(as_rows(grad).index_select(1, places), {0, count(*shapes[1]) - places.numel()})
                       .view(Call::batch_of(grad, *shapes[1]));
      }
    };
  });
}

// The largest or smallest element so far, along a dimension.
template <typename T>
void add_cumulative_extremum(RuleTable& table) {
  add_rule<T>(table, [](const Call& call, const T& node) -> BatchedVjp {
    const Shape shape = *call.given[0];
    if (shape.empty()) {
      return nullptr;
    }
    return [shape, index = call.saved(node.indices_), dim = batched_dim(node.dim, shape)](
               Cotangents& taken, Cotangents& given) {
      if (taken[0].defined()) {
        const at::Tensor& grad = taken[0];
        given[0] =
            at::zeros(Call::batch_of(grad, shape), grad.options()).scatter_add_(dim, index.expand(grad.sizes()), grad);
      }
    };
  });
}

// Pixels that are put to places of a plane of `space` dimensions.
template <typename T, int64_t space>
void add_unpooling(RuleTable& table) {
  add_unary<T>(table, [](const Call& call, const T& node) {
    return [shape = *call.given[0], index = call.saved(node.indices_).flatten(-space)](const at::Tensor& grad) {
      return grad.flatten(-space)
          .gather(-1, index.expand(Call::batch_of(grad, index.sizes().vec())))
          .view(Call::batch_of(grad, shape));
    };
  });
}

} // namespace

void add_pick_rules(RuleTable& table) {
  add_takes(table);
  add_cumulative_extremum<CummaxBackward0>(table);
  add_cumulative_extremum<CumminBackward0>(table);
  add_unpooling<MaxUnpool2DBackward0, 2>(table);
  add_unpooling<MaxUnpool3DBackward0, 3>(table);
}

} // namespace highgrad::vjp
