// Rules of attention, embeddings and distances.

#include <ATen/Functions.h>
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

// softmax(scale * query @ key^T) @ value, with the heads of all samples as one dimension. torch's own backward is not
// differentiable again; this is.
BatchedVjp attention(const Call& call, const ScaledDotProductFlashAttentionForCpuBackward0& node) {
  if (node.dropout_p != 0 || call.saved(node.attn_mask_).defined()) {
    return nullptr;
  }
  const at::Tensor query = call.saved(node.query_).flatten(0, 1), key = call.saved(node.key_).flatten(0, 1),
                   value = call.saved(node.value_).flatten(0, 1);
  const int64_t length = query.size(1), keys = key.size(1);
  if (query.size(0) != key.size(0) || query.numel() == 0 || key.numel() == 0 ||
      length * keys > kLargestShareOfPairs * (length + keys) * query.size(2)) {
    return nullptr;
  }
  const double scale = node.scale.value_or(1 / std::sqrt(static_cast<double>(query.size(2))));
  at::Tensor scores = query.bmm(key.mT()) * scale;
  if (node.is_causal) {
    const at::Tensor later = at::ones({length, keys}, query.options().dtype(at::kBool)).triu(1);
    scores = scores.masked_fill(later, -std::numeric_limits<double>::infinity());
  }
  const at::Tensor weights = scores.softmax(-1); // [heads, length, keys]
  return [=, shapes = call.given](Cotangents& taken, Cotangents& given) {
    if (!taken[0].defined()) {
      return;
    }
    const at::Tensor grad = taken[0].flatten(1, 2); // [B, heads, length, width]
    const auto hand_on = [&](size_t link, const at::Tensor& rows) {
      given[link] = rows.reshape(Call::batch_of(grad, *shapes[link]));
    };
    if (shapes[2].has_value()) {
      hand_on(2, batches_times_right(grad.mT(), weights).mT());
    }
    if (!shapes[0].has_value() && !shapes[1].has_value()) {
      return;
    }
    const at::Tensor by_weights = at::mul(batches_times_right(grad, value.mT()), weights);
    const at::Tensor by_scores = at::addcmul(by_weights, weights, by_weights.sum(-1, /*keepdim=*/true), -1) * scale;
    if (shapes[0].has_value()) {
      hand_on(0, batches_times_right(by_scores, key));
    }
    if (shapes[1].has_value()) {
      hand_on(1, batches_times_right(by_scores.mT(), query));
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
  add_rule<ScaledDotProductFlashAttentionForCpuBackward0>(table, &attention);
  add_rule<EmbeddingBackward0>(table, &embedding);
  add_rule<EmbeddingBagBackward0>(table, &embedding_bag);
  add_rule<CdistBackward0>(table, &distances);
}

} // namespace highgrad::vjp
