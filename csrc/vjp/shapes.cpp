// Rules of views, and of copies and joins that move elements.

#include <ATen/Functions.h>
#include <ATen/core/IListRef.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "vjp/rule.h"

namespace highgrad::vjp {

std::optional<c10::List<std::optional<at::Tensor>>> batched_indices(
    const Call& call,
    const std::vector<torch::autograd::SavedVariable>& variables) {
  c10::List<std::optional<at::Tensor>> indices;
  indices.push_back(std::nullopt);
  int64_t runs = 0;
  bool previous = false;
  for (const torch::autograd::SavedVariable& variable : variables) {
    const at::Tensor index = call.saved(variable);
    runs += index.defined() && !previous;
    previous = index.defined();
    indices.push_back(previous ? std::optional<at::Tensor>(index) : std::nullopt);
  }
  return runs == 1 ? std::optional(indices) : std::nullopt;
}

std::optional<IndexAlong> index_along(const c10::List<std::optional<at::Tensor>>& indices, const at::Tensor& whole) {
  // Elements at each index: index_add starts anew for it, in the time that index_put takes for dozens of elements.
  constexpr int64_t kWide = 64;
  int64_t dim = 0;
  for (const auto i : c10::irange(static_cast<int64_t>(indices.size()))) {
    if (indices.get(i).has_value()) {
      if (dim > 0) {
        return std::nullopt;
      }
      dim = i;
    }
  }
  const at::Tensor index = *indices.get(dim);
  const bool is_number = index.scalar_type() == at::kLong || index.scalar_type() == at::kInt;
  // On a GPU index_add sums in any order, and index_put in a fixed one.
  if (!whole.is_cpu() || !is_number || index.dim() == 0 || whole.numel() < kWide * whole.size(dim) ||
      whole.numel() == 0) {
    return std::nullopt;
  }
  return IndexAlong{dim, index.reshape({-1}).remainder(whole.size(dim)), index.sizes().vec()};
}

namespace {

using namespace torch::autograd::generated;

template <typename T>
void add_reshape(RuleTable& table) {
  add_unary<T>(table, [](const Call& call, const T& /*node*/) {
    return [shape = *call.given[0]](const at::Tensor& grad) { return grad.reshape(Call::batch_of(grad, shape)); };
  });
}

template <typename T>
void add_transpose(RuleTable& table) {
  add_unary<T>(table, [](const Call& call, const T& node) {
    const Shape& shape = call.taken[0];
    const int64_t a = shape.empty() ? 0 : batched_dim(node.dim0, shape);
    const int64_t b = shape.empty() ? 0 : batched_dim(node.dim1, shape);
    return [a, b](const at::Tensor& grad) { return a == b ? grad : grad.transpose(a, b); };
  });
}

void add_views(RuleTable& table) {
  add_reshape<ViewBackward0>(table);
  add_reshape<UnsafeViewBackward0>(table);
  add_reshape<ReshapeAliasBackward0>(table);
  add_reshape<SqueezeBackward0>(table);
  add_reshape<SqueezeBackward1>(table);
  add_reshape<SqueezeBackward2>(table);
  add_reshape<SqueezeBackward3>(table); // in place, as the next two: matmul with a vector does so
  add_reshape<SqueezeBackward4>(table);
  add_reshape<SqueezeBackward5>(table);
  add_reshape<UnsqueezeBackward0>(table);
  add_identity<AliasBackward0>(table);
  add_identity<CloneBackward0>(table);
  // The sum over what was stretched is the same as for every operand that was broadcast.
  add_identity<ExpandBackward0>(table);
  add_unary<TBackward0>(table, [](const Call& /*call*/, const TBackward0& /*node*/) {
    return [](const at::Tensor& grad) { return grad.dim() < 3 ? grad : grad.transpose(1, 2); };
  });
  add_transpose<TransposeBackward0>(table);
  add_transpose<TransposeBackward1>(table); // in place
  add_unary<PermuteBackward0>(table, [](const Call& call, const PermuteBackward0& node) {
    std::vector<int64_t> inverse(node.dims.size() + 1, 0);
    for (const auto k : c10::irange(node.dims.size())) {
      inverse[batched_dim(node.dims[k], call.taken[0])] = static_cast<int64_t>(k) + 1;
    }
    return [inverse](const at::Tensor& grad) { return grad.permute(inverse); };
  });
}

template <typename T>
void add_diagonal(RuleTable& table) {
  add_unary<T>(table, [](const Call& call, const T& node) {
    const Shape& shape = *call.given[0];
    return
        [shape, offset = node.offset, a = batched_dim(node.dim1, shape), b = batched_dim(node.dim2, shape)](
            const at::Tensor& grad) { return at::diagonal_backward(grad, Call::batch_of(grad, shape), offset, a, b); };
  });
}

// Views of a part: the rest is zero.
void add_parts(RuleTable& table) {
  add_unary<SelectBackward0>(table, [](const Call& call, const SelectBackward0& node) {
    const Shape& shape = *call.given[0];
    return [shape, dim = batched_dim(node.dim, shape), index = node.index.guard_int(__FILE__, __LINE__)](
               const at::Tensor& grad) { return at::select_backward(grad, Call::batch_of(grad, shape), dim, index); };
  });
  add_unary<SliceBackward0>(table, [](const Call& call, const SliceBackward0& node) {
    const Shape& shape = *call.given[0];
    const int64_t start = node.start.has_value() ? node.start->guard_int(__FILE__, __LINE__) : 0;
    const int64_t end =
        node.end.has_value() ? node.end->guard_int(__FILE__, __LINE__) : std::numeric_limits<int64_t>::max();
    const int64_t step = node.step.guard_int(__FILE__, __LINE__);
    return [shape, dim = batched_dim(node.dim, shape), start, end, step](const at::Tensor& grad) {
      return at::slice_backward(grad, Call::batch_of(grad, shape), dim, start, end, step);
    };
  });
  add_diagonal<DiagonalBackward0>(table);
  add_diagonal<DiagonalBackward0_copy>(table);
  add_unary<DiagEmbedBackward0>(table, [](const Call& call, const DiagEmbedBackward0& node) {
    const Shape& shape = call.taken[0];
    return [offset = node.offset, a = batched_dim(node.dim1, shape), b = batched_dim(node.dim2, shape)](
               const at::Tensor& grad) { return grad.diagonal(offset, a, b); };
  });
  add_unary<UnfoldBackward0>(
      table, [](const Call& call, const UnfoldBackward0& node) -> std::function<at::Tensor(const at::Tensor&)> {
        const Shape& shape = *call.given[0];
        if (shape.empty()) {
          throw Unserved("unfold of a number");
        }
        return [shape, dim = batched_dim(node.dimension, shape), size = node.size, step = node.step](
                   const at::Tensor& grad) {
          return at::unfold_backward(grad, Call::batch_of(grad, shape), dim, size, step);
        };
      });
  add_unary<TriuBackward0>(table, [](const Call& /*call*/, const TriuBackward0& node) {
    return [diagonal = node.diagonal.guard_int(__FILE__, __LINE__)](const at::Tensor& grad) {
      return grad.triu(diagonal);
    };
  });
  add_unary<TrilBackward0>(table, [](const Call& /*call*/, const TrilBackward0& node) {
    return [diagonal = node.diagonal.guard_int(__FILE__, __LINE__)](const at::Tensor& grad) {
      return grad.tril(diagonal);
    };
  });
  add_unary<ConstantPadNdBackward0>(table, [](const Call& /*call*/, const ConstantPadNdBackward0& node) {
    std::vector<int64_t> pad = to_ints(node.pad);
    for (int64_t& amount : pad) {
      amount = -amount;
    }
    return [pad](const at::Tensor& grad) { return at::constant_pad_nd(grad, pad, 0); };
  });
}

void add_moves(RuleTable& table) {
  add_unary<FlipBackward0>(table, [](const Call& call, const FlipBackward0& node) {
    return [dims = batched_dims(node.dims, call.taken[0])](const at::Tensor& grad) { return grad.flip(dims); };
  });
  add_unary<Rot90Backward0>(table, [](const Call& call, const Rot90Backward0& node) {
    return [dims = batched_dims(node.dims, call.taken[0]), turns = -node.k](const at::Tensor& grad) {
      return grad.rot90(turns, dims);
    };
  });
  add_unary<RepeatBackward0>(table, [](const Call& call, const RepeatBackward0& node) {
    // Each dimension as (times, size), of which the times are summed.
    const Shape& shape = *call.given[0];
    const size_t more = node.repeats.size() - shape.size();
    Shape split;
    std::vector<int64_t> times;
    for (const auto k : c10::irange(node.repeats.size())) {
      times.push_back(static_cast<int64_t>(split.size()) + 1);
      split.push_back(node.repeats[k].guard_int(__FILE__, __LINE__));
      if (k >= more) {
        split.push_back(shape[k - more]);
      }
    }
    return [split, times](const at::Tensor& grad) {
      return times.empty() ? grad : grad.reshape(Call::batch_of(grad, split)).sum(times);
    };
  });
  add_rule<RollBackward0>(table, [](const Call& call, const RollBackward0& node) -> BatchedVjp {
    std::vector<int64_t> shifts = to_ints(node.shifts);
    for (int64_t& shift : shifts) {
      shift = -shift;
    }
    const Shape& shape = call.taken[0];
    if (shape.empty()) {
      return nullptr;
    }
    return [shifts, dims = batched_dims(node.dims, shape)](Cotangents& taken, Cotangents& given) {
      const at::Tensor& grad = taken[0];
      // Without dims, the elements of each row are rolled in row-major order.
      given[0] = dims.empty() ? grad.flatten(1).roll(shifts, {1}).view(grad.sizes()) : grad.roll(shifts, dims);
    };
  });
  add_rule<IndexSelectBackward0>(table, [](const Call& call, const IndexSelectBackward0& node) -> BatchedVjp {
    const Shape& shape = *call.given[0];
    if (shape.empty()) {
      return nullptr;
    }
    return [shape, dim = batched_dim(node.dim, shape), index = call.saved(node.index_)](
               Cotangents& taken, Cotangents& given) {
      const at::Tensor& grad = taken[0];
      given[0] = at::zeros(Call::batch_of(grad, shape), grad.options()).index_add_(dim, index, grad);
    };
  });
  // What is added to a tensor, at places of it.
  add_rule<IndexAddBackward0>(table, [](const Call& call, const IndexAddBackward0& node) -> BatchedVjp {
    if (call.taken[0].empty() || (call.wants(1) && call.given[1]->empty())) {
      return nullptr;
    }
    return [dim = batched_dim(node.dim, call.taken[0]),
            index = call.saved(node.index_).reshape({-1}),
            alpha = node.alpha,
            by_self = call.wants(0),
            by_source = call.wants(1)](Cotangents& taken, Cotangents& given) {
      given[1] = by_source ? times(taken[0].index_select(dim, index), alpha) : at::Tensor();
      given[0] = by_self ? std::move(taken[0]) : at::Tensor();
    };
  });
  add_rule<ScatterAddBackward0>(table, [](const Call& call, const ScatterAddBackward0& node) -> BatchedVjp {
    const at::Tensor index = call.saved(node.index_);
    if (call.taken[0].empty() || (call.wants(1) && *call.given[1] != index.sizes())) {
      return nullptr;
    }
    return [dim = batched_dim(node.dim, call.taken[0]), index, by_self = call.wants(0), by_source = call.wants(1)](
               Cotangents& taken, Cotangents& given) {
      const Shape rows = Call::batch_of(taken[0], index.sizes().vec());
      given[1] = by_source ? taken[0].gather(dim, index.expand(rows)) : at::Tensor();
      given[0] = by_self ? std::move(taken[0]) : at::Tensor();
    };
  });
  add_rule<GatherBackward0>(table, [](const Call& call, const GatherBackward0& node) -> BatchedVjp {
    const Shape& shape = *call.given[0];
    if (shape.empty() || node.sparse_grad) {
      return nullptr;
    }
    return [shape, dim = batched_dim(node.dim, shape), index = call.saved(node.index_)](
               Cotangents& taken, Cotangents& given) {
      const at::Tensor& grad = taken[0];
      given[0] =
          at::zeros(Call::batch_of(grad, shape), grad.options()).scatter_add_(dim, index.expand(grad.sizes()), grad);
    };
  });
  add_rule<IndexBackward0>(table, [](const Call& call, const IndexBackward0& node) -> BatchedVjp {
    const auto indices = batched_indices(call, node.indices_);
    if (!indices.has_value()) {
      return nullptr;
    }
    return [shape = *call.given[0], indices = *indices](Cotangents& taken, Cotangents& given) {
      const at::Tensor& grad = taken[0];
      const at::Tensor zeros = at::zeros(Call::batch_of(grad, shape), grad.options());
      const std::optional<IndexAlong> along = index_along(indices, zeros);
      if (along.has_value()) {
        const auto last = along->dim + static_cast<int64_t>(along->sizes.size()) - 1;
        given[0] = zeros.index_add_(along->dim, along->index, grad.flatten(along->dim, last));
      } else {
        given[0] = zeros.index_put_(indices, grad, /*accumulate=*/true);
      }
    };
  });
}

// What a Node chose along a dimension, by the indices that it saved: max, min, sort and their like.
template <typename T>
void add_selection(RuleTable& table) {
  add_rule<T>(table, [](const Call& call, const T& node) -> BatchedVjp {
    const Shape& shape = *call.given[0];
    if (shape.empty()) {
      return nullptr;
    }
    const int64_t dim = batched_dim(node.dim, shape);
    at::Tensor index = call.saved(node.indices_);
    // Without keepdim, what was reduced has no dimension.
    const bool is_reduced = index.dim() < static_cast<int64_t>(shape.size());
    if (is_reduced) {
      index = index.unsqueeze(dim - 1);
    }
    return [shape, dim, index, is_reduced](Cotangents& taken, Cotangents& given) {
      const at::Tensor grad = is_reduced ? taken[0].unsqueeze(dim) : taken[0];
      given[0] = at::zeros(Call::batch_of(grad, shape), grad.options()).scatter_(dim, index.expand(grad.sizes()), grad);
    };
  });
}

void add_selections(RuleTable& table) {
  add_selection<MaxBackward0>(table);
  add_selection<MinBackward0>(table);
  add_selection<SortBackward0>(table);
  add_selection<SortBackward1>(table);
  add_selection<TopkBackward0>(table);
  add_selection<KthvalueBackward0>(table);
  add_selection<ModeBackward0>(table);
}

void add_joins(RuleTable& table) {
  add_rule<CatBackward0>(table, [](const Call& call, const CatBackward0& node) -> BatchedVjp {
    if (call.taken[0].empty()) {
      return nullptr;
    }
    const int64_t dim = batched_dim(node.dim, call.taken[0]);
    std::vector<int64_t> first;
    std::vector<int64_t> length;
    int64_t total = 0;
    for (const auto k : c10::irange(call.given.size())) {
      const auto& sizes = node.tensors_args_sizes_symint[k];
      // An empty vector joins anything.
      const bool is_nothing = sizes.size() == 1 && sizes[0] == 0;
      first.push_back(total);
      length.push_back(is_nothing ? 0 : sizes[dim - 1].guard_int(__FILE__, __LINE__));
      if (is_nothing && call.wants(k)) {
        return nullptr;
      }
      total += length.back();
    }
    std::vector<bool> wanted;
    for (const auto k : c10::irange(call.given.size())) {
      wanted.push_back(call.wants(k));
    }
    return [dim, first, length, wanted](Cotangents& taken, Cotangents& given) {
      for (const auto k : c10::irange(given.size())) {
        if (wanted[k]) {
          given[k] = taken[0].narrow(dim, first[k], length[k]);
        }
      }
    };
  });
  // Matrices, of which vectors are rows and numbers elements, one after another on the diagonal.
  add_rule<BlockDiagBackward0>(table, [](const Call& call, const BlockDiagBackward0& node) -> BatchedVjp {
    return [shapes = call.given, all = node.tensors_args_sizes](Cotangents& taken, Cotangents& given) {
      int64_t row = 0, column = 0;
      for (const auto k : c10::irange(given.size())) {
        const std::vector<int64_t>& sizes = all[k];
        const int64_t rows = sizes.size() == 2 ? sizes[0] : 1, columns = sizes.empty() ? 1 : sizes.back();
        if (shapes[k].has_value()) {
          given[k] =
              taken[0].narrow(1, row, rows).narrow(2, column, columns).reshape(Call::batch_of(taken[0], *shapes[k]));
        }
        row += rows;
        column += columns;
      }
    };
  });
  add_rule<StackBackward0>(table, [](const Call& call, const StackBackward0& node) -> BatchedVjp {
    std::vector<bool> wanted;
    for (const auto k : c10::irange(call.given.size())) {
      wanted.push_back(call.wants(k));
    }
    return [dim = batched_dim(node.dim, call.taken[0]), wanted](Cotangents& taken, Cotangents& given) {
      for (const auto k : c10::irange(given.size())) {
        if (wanted[k]) {
          given[k] = taken[0].select(dim, static_cast<int64_t>(k));
        }
      }
    };
  });
  add_rule<UnbindBackward0>(table, [](const Call& call, const UnbindBackward0& node) -> BatchedVjp {
    return [shape = call.taken[0], dim = batched_dim(node.dim, *call.given[0])](Cotangents& taken, Cotangents& given) {
      const at::Tensor& any =
          *std::find_if(taken.begin(), taken.end(), [](const at::Tensor& t) { return t.defined(); });
      const at::Tensor zero = at::zeros(Call::batch_of(any, shape), any.options());
      std::vector<at::Tensor> parts;
      for (const at::Tensor& part : taken) {
        parts.push_back(part.defined() ? part : zero);
      }
      given[0] = at::stack(parts, dim);
    };
  });
  const auto joined = [](const Call& call, int64_t dim) -> BatchedVjp {
    return [shapes = call.taken, dim](Cotangents& taken, Cotangents& given) {
      const at::Tensor& any =
          *std::find_if(taken.begin(), taken.end(), [](const at::Tensor& t) { return t.defined(); });
      std::vector<at::Tensor> parts;
      for (const auto k : c10::irange(taken.size())) {
        parts.push_back(taken[k].defined() ? taken[k] : at::zeros(Call::batch_of(any, shapes[k]), any.options()));
      }
      given[0] = at::cat(parts, dim);
    };
  };
  add_rule<SplitBackward0>(table, [joined](const Call& call, const SplitBackward0& node) {
    return joined(call, batched_dim(node.dim, *call.given[0]));
  });
  add_rule<UnsafeSplitBackward0>(table, [joined](const Call& call, const UnsafeSplitBackward0& node) {
    return joined(call, batched_dim(node.dim, *call.given[0]));
  });
  add_rule<SplitWithSizesBackward0>(table, [joined](const Call& call, const SplitWithSizesBackward0& node) {
    return joined(call, batched_dim(node.dim, *call.given[0]));
  });
}

} // namespace

void add_shape_rules(RuleTable& table) {
  add_views(table);
  add_parts(table);
  add_moves(table);
  add_selections(table);
  add_joins(table);
}

} // namespace highgrad::vjp
