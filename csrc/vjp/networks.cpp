// Rules of attention, embeddings and distances.

#include <ATen/Functions.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <cmath>
#include <limits>
#include <utility>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// Attention makes a matrix of all pairs; torch's kernel does not. It may be this much larger than what it is made of.
constexpr int64_t kLargestShareOfPairs = 4;

// What a Node of attention has saved of a mask: one of numbers is added to the scores, one of truths says which of them
// count. By overloads, since torch 2.11 is built as C++17.
template <typename Attention>
auto mask_of(const Call& call, const Attention& node, int /*preferred*/) -> decltype(call.saved(node.attn_bias_)) {
  return call.saved(node.attn_bias_);
}

template <typename Attention>
auto mask_of(const Call& call, const Attention& node, int /*preferred*/) -> decltype(call.saved(node.attn_mask_)) {
  return call.saved(node.attn_mask_);
}

template <typename Attention>
at::Tensor mask_of(const Call& /*call*/, const Attention& /*node*/, long /*otherwise*/) {
  return {};
}

// softmax(scale * query @ key^T + mask) @ value, with the heads of all samples as one dimension; where several heads of
// the query share one of the keys, their rows are one after another. torch's own backward is not differentiable again;
// this is. `counts_from_first`: whether, of other lengths than the keys', the first query sees the first key alone.
template <typename Attention, bool counts_from_first>
BatchedVjp attention(const Call& call, const Attention& node) {
  const at::Tensor queries = call.saved(node.query_), keys = call.saved(node.key_), values = call.saved(node.value_);
  if (node.dropout_p != 0 || queries.dim() != 4 || queries.numel() == 0 || keys.numel() == 0 ||
      queries.size(0) != keys.size(0) || queries.size(1) % keys.size(1) != 0 || keys.size(1) != values.size(1)) {
    return nullptr;
  }
  const int64_t heads = keys.size(0) * keys.size(1), sharing = queries.size(1) / keys.size(1);
  const int64_t length = queries.size(2), count = keys.size(2);
  if (length * count > kLargestShareOfPairs * (length + count) * queries.size(3) ||
      (node.is_causal && length != count && !counts_from_first)) {
    return nullptr;
  }
  // Halves are multiplied in single precision, as the kernels do.
  const at::ScalarType dtype = at::toOpMathType(queries.scalar_type());
  const auto of_heads = [&](const at::Tensor& tensor) { return tensor.to(dtype).reshape({heads, -1, tensor.size(3)}); };
  const at::Tensor query = of_heads(queries), key = of_heads(keys), value = of_heads(values);
  const double scale = node.scale.value_or(1 / std::sqrt(static_cast<double>(queries.size(3))));
  at::Tensor scores = query.bmm(key.mT()) * scale; // [heads, sharing * length, count]
  const at::Tensor mask = mask_of(call, node, 0);
  const Shape of_mask{queries.size(0), queries.size(1), length, count};
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  if (mask.defined()) {
    const at::Tensor each = mask.expand(of_mask).reshape(scores.sizes());
    scores = mask.scalar_type() == at::kBool ? scores.masked_fill(each.logical_not(), kNever) : scores + each;
  }
  if (node.is_causal) {
    const at::Tensor later = at::ones({length, count}, query.options().dtype(at::kBool)).triu(1);
    scores = scores.masked_fill(later.repeat({sharing, 1}), kNever);
  }
  // A query that sees no key has no weights.
  const at::Tensor weights = mask.defined() ? at::_safe_softmax(scores, -1) : scores.softmax(-1);
  const bool by_mask = call.given.size() > 3 && call.wants(3);
  return [=, shapes = call.given](Cotangents& taken, Cotangents& given) {
    if (!taken[0].defined()) {
      return;
    }
    const int64_t rows = taken[0].size(0);
    const at::Tensor grad = taken[0].to(dtype).reshape({rows, heads, sharing * length, value.size(2)});
    const auto hand_on = [&](size_t link, const at::Tensor& cotangents) {
      given[link] = cotangents.reshape(Call::batch_of(grad, *shapes[link]));
    };
    if (shapes[2].has_value()) {
      hand_on(2, batches_times_right(grad.mT(), weights).mT());
    }
    if (!shapes[0].has_value() && !shapes[1].has_value() && !by_mask) {
      return;
    }
    const at::Tensor by_weights = at::mul(batches_times_right(grad, value.mT()), weights);
    const at::Tensor by_scores = at::addcmul(by_weights, weights, by_weights.sum(-1, /*keepdim=*/true), -1);
    if (by_mask) {
      given[3] = by_scores.reshape(Call::batch_of(grad, of_mask));
    }
    if (shapes[0].has_value()) {
      hand_on(0, batches_times_right(by_scores, key) * scale);
    }
    if (shapes[1].has_value()) {
      hand_on(1, batches_times_right(by_scores.mT(), query) * scale);
    }
  };
}

BatchedVjp embedding(const Call& call, const EmbeddingBackward0& node) {
  if (node.sparse || node.scale_grad_by_freq) {
    return nullptr;
  }
  const at::Tensor index = call.saved(node.indices_).reshape({-1});
  const int64_t padding = node.padding_idx.guard_int(__FILE__, __LINE__);
  at::Tensor is_padding = padding < 0 ? at::Tensor() : index.eq(padding).unsqueeze(1);
  return [shape = *call.given[0], index, is_padding](Cotangents& taken, Cotangents& given) {
    at::Tensor grad = taken[0].reshape({taken[0].size(0), index.numel(), shape[1]});
    grad = is_padding.defined() ? grad.masked_fill(is_padding, 0) : grad;
    given[0] = at::zeros(Call::batch_of(grad, shape), grad.options()).index_add_(1, index, grad);
  };
}

// The largest of the embeddings of each bag, by dimension.
BatchedVjp largest_of_bag(const Call& call, const EmbeddingBagBackward0& node) {
  const at::Tensor chosen = call.saved(node.result3_); // [bags, dims]
  const at::Tensor is_empty = call.saved(node.result2_).eq(0).unsqueeze(1).logical_or(chosen.lt(0));
  return [shape = *call.given[0], index = chosen.clamp_min(0), is_empty](Cotangents& taken, Cotangents& given) {
    if (taken[0].defined()) {
      const at::Tensor rows = taken[0].masked_fill(is_empty, 0);
      given[0] =
          at::zeros(Call::batch_of(rows, shape), rows.options()).scatter_add_(1, index.expand(rows.sizes()), rows);
    }
  };
}

// Sums, of which the embeddings may be weighted, or means, or the largest of the embeddings of each bag.
BatchedVjp embedding_bag(const Call& call, const EmbeddingBagBackward0& node) {
  enum Mode : int64_t { kSum, kMean, kMax };
  if (node.sparse || node.scale_grad_by_freq || node.padding_idx >= 0 || call.taken[0].empty() ||
      call.saved(node.indices_).numel() == 0) {
    return nullptr;
  }
  if (node.mode == kMax) {
    return largest_of_bag(call, node);
  }
  const at::Tensor index = call.saved(node.indices_).reshape({-1}), offsets = call.saved(node.offsets_);
  // The last bag that begins at or before each index.
  const at::Tensor bag = at::searchsorted(offsets, at::arange(index.numel(), offsets.options()), false, true) - 1;
  const int64_t bags = call.taken[0][0];
  const at::Tensor weights = call.saved(node.per_sample_weights_);
  at::Tensor share = weights.defined() ? weights.reshape({-1, 1}) : weights;
  if (node.mode == kMean) {
    const auto options = node.input_metadata(0).options();
    const at::Tensor sizes = at::zeros({bags}, options).index_add(0, bag, at::ones({index.numel()}, options));
    share = sizes.index_select(0, bag).reciprocal().unsqueeze(1);
  }
  const bool by_weights = call.given.size() > 1 && call.wants(1);
  const at::Tensor embeddings = by_weights ? call.saved(node.weight_).index_select(0, index) : at::Tensor();
  return [shapes = call.given, index, bag, share, embeddings](Cotangents& taken, Cotangents& given) {
    if (!taken[0].defined()) {
      return;
    }
    const at::Tensor rows = taken[0].index_select(1, bag);
    if (shapes[0].has_value()) {
      given[0] = at::zeros(Call::batch_of(rows, *shapes[0]), rows.options())
                     .index_add_(1, index, share.defined() ? at::mul(rows, share) : rows);
    }
    if (embeddings.defined()) {
      given[1] = at::mul(rows, embeddings).sum(2).view(Call::batch_of(rows, *shapes[1]));
    }
  };
}

// Euclidean distances of the rows of one matrix from those of another, with zero where they are equal.
BatchedVjp distances(const Call& call, const CdistBackward0& node) {
  const at::Tensor first = call.saved(node.x1_), second = call.saved(node.x2_);
  if (node.p != 2 || first.dim() != 2 || second.dim() != 2 || first.numel() == 0 || second.numel() == 0) {
    return nullptr;
  }
  // torch saves the distances without a graph.
  const at::Tensor difference = first.unsqueeze(1) - second.unsqueeze(0); // [P, R, M]
  const at::Tensor squared = difference.square().sum(2, /*keepdim=*/true);
  // Equal points have no direction, nor one that changes.
  const at::Tensor is_equal = squared.eq(0);
  const at::Tensor direction = (difference / squared.masked_fill(is_equal, 1).sqrt()).masked_fill(is_equal, 0);
  return [direction, is_equal = is_equal.squeeze(2), by_first = call.wants(0), by_second = call.wants(1)](
             Cotangents& taken, Cotangents& given) {
    // [B, P, R]. Infinite for equal points, if a root of the distance follows.
    const at::Tensor grad = taken[0].masked_fill(is_equal, 0);
    if (by_first) {
      given[0] = grad.transpose(0, 1).bmm(direction).transpose(0, 1);
    }
    if (by_second) {
      given[1] = grad.permute({2, 0, 1}).bmm(direction.transpose(0, 1)).transpose(0, 1).neg();
    }
  };
}

} // namespace

void add_network_rules(RuleTable& table) {
  using OfCpu = ScaledDotProductFlashAttentionForCpuBackward0;
  using Efficient = ScaledDotProductEfficientAttentionBackward0;
  using Flash = ScaledDotProductFlashAttentionBackward0;
  using Cudnn = ScaledDotProductCudnnAttentionBackward0;
  add_rule<OfCpu>(table, &attention<OfCpu, true>);
  add_rule<Efficient>(table, &attention<Efficient, true>);
  add_rule<Flash>(table, &attention<Flash, false>);
  add_rule<Cudnn>(table, &attention<Cudnn, false>);
  add_rule<EmbeddingBackward0>(table, &embedding);
  add_rule<EmbeddingBagBackward0>(table, &embedding_bag);
  add_rule<CdistBackward0>(table, &distances);
}

} // namespace highgrad::vjp
