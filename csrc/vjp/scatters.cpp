// Rules of copies of a tensor in which a part is replaced.

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <limits>
#include <optional>
#include <utility>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// `part` gives the replaced view of a tensor with the batch in front: its cotangents are the source's, and nothing is
// left of them for what was replaced.
template <typename Part>
BatchedVjp by_view(const Call& call, Part part) {
  return [part, by_self = call.wants(0), by_source = call.wants(1)](Cotangents& taken, Cotangents& given) {
    given[1] = by_source ? part(taken[0]).clone() : at::Tensor();
    if (by_self) {
      given[0] = taken[0].clone();
      part(given[0]).zero_();
    }
  };
}

void add_views(RuleTable& table) {
  add_rule<SelectScatterBackward0>(table, [](const Call& call, const SelectScatterBackward0& node) {
    return by_view(
        call,
        [dim = batched_dim(node.dim, call.taken[0]), index = node.index.guard_int(__FILE__, __LINE__)](
            const at::Tensor& whole) { return whole.select(dim, index); });
  });
  add_rule<SliceScatterBackward0>(table, [](const Call& call, const SliceScatterBackward0& node) {
    const int64_t start = node.start.has_value() ? node.start->guard_int(__FILE__, __LINE__) : 0;
    const int64_t end =
        node.end.has_value() ? node.end->guard_int(__FILE__, __LINE__) : std::numeric_limits<int64_t>::max();
    return by_view(
        call,
        [dim = batched_dim(node.dim, call.taken[0]), start, end, step = node.step.guard_int(__FILE__, __LINE__)](
            const at::Tensor& whole) { return whole.slice(dim, start, end, step); });
  });
  add_rule<DiagonalScatterBackward0>(table, [](const Call& call, const DiagonalScatterBackward0& node) {
    const Shape& shape = call.taken[0];
    return by_view(
        call,
        [offset = node.offset, a = batched_dim(node.dim1, shape), b = batched_dim(node.dim2, shape)](
            const at::Tensor& whole) { return whole.diagonal(offset, a, b); });
  });
}

// Along a dimension, at places of all that lies there.
void add_places_along(RuleTable& table) {
  add_rule<IndexFillBackward0>(table, [](const Call& call, const IndexFillBackward0& node) -> BatchedVjp {
    if (call.taken[0].empty()) {
      return nullptr;
    }
    return [dim = batched_dim(node.dim, call.taken[0]), index = call.saved(node.index_)](
               Cotangents& taken, Cotangents& given) { given[0] = taken[0].index_fill(dim, index, 0); };
  });
  add_rule<IndexFillBackward1>(table, [](const Call& call, const IndexFillBackward1& node) -> BatchedVjp {
    const Shape& shape = call.taken[0];
    const size_t value = call.given.size() - 1;
    if (shape.empty()) {
      return nullptr;
    }
    const int64_t dim = batched_dim(node.dim, shape);
    const at::Tensor index = call.saved(node.index_);
    // Of a place that is filled twice the value has the cotangent once.
    Shape along(shape.size(), 1);
    along[dim - 1] = shape[dim - 1];
    const at::Tensor is_filled =
        at::zeros(shape[dim - 1], index.options().dtype(at::kBool)).index_fill_(0, index, 1).view(along);
    return [is_filled, value, by_self = call.wants(0), by_value = call.wants(value)](
               Cotangents& taken, Cotangents& given) {
      if (by_value) {
        given[value] = keep_where(is_filled, taken[0]).flatten(1).sum(1);
      }
      given[0] = by_self ? taken[0].masked_fill(is_filled, 0) : at::Tensor();
    };
  });
  add_rule<IndexCopyBackward0>(table, [](const Call& call, const IndexCopyBackward0& node) -> BatchedVjp {
    const size_t source = call.given.size() - 1;
    if (call.taken[0].empty() || (call.wants(source) && call.given[source]->empty())) {
      return nullptr;
    }
    return [dim = batched_dim(node.dim, call.taken[0]),
            index = call.saved(node.index_).reshape({-1}),
            source,
            by_self = call.wants(0),
            by_source = call.wants(source)](Cotangents& taken, Cotangents& given) {
      if (by_source) {
        given[source] = taken[0].index_select(dim, index);
      }
      given[0] = by_self ? taken[0].index_fill(dim, index, 0) : at::Tensor();
    };
  });
}

// `index` for tensors with the batch of `rows` in front.
at::Tensor for_rows(const at::Tensor& index, const at::Tensor& rows) {
  return index.expand(Call::batch_of(rows, index.sizes().vec()));
}

// At a place for each element of the index. A source that is larger than that has no rule.
bool is_scatter(const Call& call, const at::Tensor& index, size_t source) {
  return !call.taken[0].empty() && index.dim() > 0 &&
      (source >= call.given.size() || !call.wants(source) || *call.given[source] == index.sizes());
}

template <typename T>
void add_scatter(RuleTable& table) {
  add_rule<T>(table, [](const Call& call, const T& node) -> BatchedVjp {
    const at::Tensor index = call.saved(node.index_);
    const size_t source = call.given.size() > 1 ? call.given.size() - 1 : 1;
    if (!is_scatter(call, index, source)) {
      return nullptr;
    }
    return [dim = batched_dim(node.dim, call.taken[0]),
            index,
            source,
            by_self = call.wants(0),
            by_source = source < call.given.size() && call.wants(source)](Cotangents& taken, Cotangents& given) {
      const at::Tensor places = for_rows(index, taken[0]);
      if (by_source) {
        given[source] = taken[0].gather(dim, places);
      }
      given[0] = by_self ? taken[0].scatter(dim, places, 0) : at::Tensor();
    };
  });
}

// What each element of self and source has of the derivative of the result that it goes into.
struct Shares {
  at::Tensor self, source;
};

// None for products.
std::optional<Shares> shares_of(const Call& call, const ScatterReduceBackward0& node, const at::Tensor& index) {
  const at::Tensor self = call.saved(node.self_), source = call.saved(node.src_);
  const int64_t dim = node.dim;
  if (node.reduce == "sum") {
    return Shares{at::ones_like(self), at::ones_like(source)};
  }
  if (node.reduce == "mean") {
    const at::Tensor first = node.include_self ? at::ones_like(self) : at::zeros_like(self);
    const at::Tensor share = first.scatter_add(dim, index, at::ones_like(source)).clamp_min_(1).reciprocal_();
    return Shares{share, share.gather(dim, index)};
  }
  if (node.reduce == "amax" || node.reduce == "amin") {
    const at::Tensor result = call.saved(node.result_);
    const at::Tensor of_self = self.eq(result).to(self.scalar_type());
    const at::Tensor of_source = source.eq(result.gather(dim, index)).to(self.scalar_type());
    const at::Tensor count = of_self.scatter_add(dim, index, of_source);
    return Shares{of_self / count, of_source / count.gather(dim, index)};
  }
  return std::nullopt;
}

BatchedVjp scatter_reduce(const Call& call, const ScatterReduceBackward0& node) {
  const at::Tensor index = call.saved(node.index_);
  const size_t source = call.given.size() - 1;
  if (!is_scatter(call, index, source) || call.saved(node.src_).sizes() != index.sizes()) {
    return nullptr;
  }
  std::optional<Shares> shares;
  {
    const at::NoGradGuard no_grad; // counts
    shares = shares_of(call, node, index);
  }
  if (!shares.has_value()) {
    return nullptr;
  }
  return [shares = *shares,
          dim = batched_dim(node.dim, call.taken[0]),
          index,
          source,
          includes_self = node.include_self,
          by_self = call.wants(0),
          by_source = call.wants(source)](Cotangents& taken, Cotangents& given) {
    const at::Tensor places = for_rows(index, taken[0]);
    if (by_source) {
      given[source] = at::mul(taken[0].gather(dim, places), shares.source);
    }
    if (by_self) {
      const at::Tensor all = at::mul(taken[0], shares.self);
      given[0] = includes_self ? all : all.scatter(dim, places, 0);
    }
  };
}

} // namespace

void add_scatter_rules(RuleTable& table) {
  add_views(table);
  add_places_along(table);
  add_scatter<ScatterBackward0>(table);
  add_scatter<ScatterBackward1>(table); // a number
  add_rule<ScatterReduceBackward0>(table, &scatter_reduce);
}

} // namespace highgrad::vjp
