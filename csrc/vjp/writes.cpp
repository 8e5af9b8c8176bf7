// Rules of writes into tensors and into views of them.

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/functions/tensor.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "tape/node_rules.h"
#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;
using torch::autograd::CopyBackwards;
using torch::autograd::CopySlices;

// What is overwritten gets nothing, what is written gets all.
BatchedVjp copy(const Call& call, const CopyBackwards& /*node*/) {
  return [by_self = call.wants(0), by_source = call.wants(1)](Cotangents& taken, Cotangents& given) {
    given[0] = by_self ? at::zeros_like(taken[0]) : at::Tensor();
    given[1] = by_source ? std::move(taken[0]) : at::Tensor();
  };
}

// Strides of a batch of tensors, each of which takes `extent` elements.
Shape batched_strides(int64_t extent, at::IntArrayRef strides) {
  Shape all = {extent};
  all.insert(all.end(), strides.begin(), strides.end());
  return all;
}

// The rule of what writes into a view, where that is a part of the base's memory: the part's cotangents are replaced by
// those that it hands on.
BatchedVjp write_into_view(const Call& call, const CopySlices& node) {
  // Recorded in torch's own way: the derivative of as_strided_scatter is wrong.
  if (at::GradMode::is_enabled() && call.wants(0)) {
    return nullptr;
  }
  if (node.fn == nullptr || node.view_fn != nullptr || !tape::is_vjp_linear(*node.fn)) {
    return nullptr;
  }
  const Rule* rule = find_rule(*node.fn);
  const Shape base = node.base.sizes().vec(), view = node.view.sizes().vec();
  const at::Tensor memory = at::empty_strided(base, node.base.strides(), at::TensorOptions(at::kMeta));
  if (rule == nullptr || !memory.is_non_overlapping_and_dense() || memory.numel() == 0) {
    return nullptr;
  }
  Call inner{*node.fn, {view}, call.given};
  if (call.wants(0)) {
    inner.given[0] = view;
  }
  const BatchedVjp written = (*rule)(inner);
  if (!written) {
    return nullptr;
  }
  const int64_t extent = memory.numel(), offset = node.view.storage_offset() - node.base.storage_offset();
  return [=,
          by_base = call.wants(0),
          base_strides = batched_strides(extent, node.base.strides()),
          view_strides = batched_strides(extent, node.view.strides())](Cotangents& taken, Cotangents& given) {
    const Shape rows = Call::batch_of(taken[0], base), part = Call::batch_of(taken[0], view);
    const bool is_free = is_ours(taken[0]) && taken[0].strides() == base_strides;
    at::Tensor whole =
        is_free ? std::move(taken[0]) : at::empty_strided(rows, base_strides, taken[0].options()).copy_(taken[0]);
    const auto view_of = [&](const at::Tensor& base) {
      return base.as_strided(part, view_strides, base.storage_offset() + offset);
    };
    Cotangents of_view = {view_of(whole).clone()};
    written(of_view, given);
    if (by_base) {
      if (given[0].defined()) {
        view_of(whole).copy_(sum_broadcast(given[0], 1, view));
      } else {
        view_of(whole).zero_();
      }
      given[0] = std::move(whole);
    }
  };
}

// Overwritten by a number, or by one of a graph.
template <typename T>
void add_fill(RuleTable& table) {
  add_rule<T>(table, [](const Call& call, const T& /*node*/) -> BatchedVjp {
    return [given_value = call.given.size() > 1 && call.wants(1), by_self = call.wants(0)](
               Cotangents& taken, Cotangents& given) {
      given[0] = by_self ? at::zeros_like(taken[0]) : at::Tensor();
      if (given_value) {
        given[1] = taken[0].flatten(1).sum(1);
      }
    };
  });
}

at::Tensor at_indices(const at::Tensor& tensor, const c10::List<std::optional<at::Tensor>>& indices) {
  const std::optional<IndexAlong> along = index_along(indices, tensor);
  if (!along.has_value()) {
    return at::index(tensor, indices);
  }
  const at::Tensor selected = tensor.index_select(along->dim, along->index);
  return along->sizes.size() == 1 ? selected : selected.unflatten(along->dim, along->sizes);
}

// Elements chosen by index tensors are overwritten, or added to.
template <typename T>
void add_index_put(RuleTable& table) {
  add_rule<T>(table, [](const Call& call, const T& node) -> BatchedVjp {
    const auto indices = batched_indices(call, node.indices_);
    if (!indices.has_value()) {
      return nullptr;
    }
    return [indices = *indices, accumulates = node.accumulate, by_self = call.wants(0), by_values = call.wants(1)](
               Cotangents& taken, Cotangents& given) {
      given[1] = by_values ? at_indices(taken[0], indices) : at::Tensor();
      if (by_self) {
        given[0] =
            accumulates ? std::move(taken[0]) : at::index_put(taken[0], indices, at::zeros({}, taken[0].options()));
      }
    };
  });
}

} // namespace

void add_write_rules(RuleTable& table) {
  add_rule<CopyBackwards>(table, &copy);
  add_rule<CopySlices>(table, &write_into_view);
  add_fill<FillBackward0>(table);
  add_fill<FillBackward1>(table);
  add_fill<FillBackward2>(table);
  add_fill<ZeroBackward0>(table);
  add_index_put<IndexPutBackward0>(table);
  add_index_put<IndexPutImplBackward0>(table);
}

} // namespace highgrad::vjp
