// Rules of fused attention: softmax(scale q k^T + mask) v, made of what the fused kernels saved.

#include <ATen/TensorOperators.h>
#include <ATen/ops/_safe_softmax.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <cmath>
#include <optional>
#include <utility>

#include "taylor/bilinear.h"
#include "taylor/rule.h"
#include "taylor/softmax.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;

Jet matrix_product(const Frame& frame, const Jet& a, const Jet& b, const at::Tensor& a0, const at::Tensor& b0) {
  return bilinear(
      frame,
      a,
      b,
      [&](const at::Tensor& rows) { return multiply_matrices(rows, b0); },
      [&](const at::Tensor& rows) { return multiply_matrices(a0, rows); },
      &multiply_matrices);
}

Jet transposed(Jet jet) {
  if (!jet.is_zero()) {
    jet.rows = jet.rows.mT();
  }
  return jet;
}

// What is added to the scores; undefined for nothing.
at::Tensor mask_of(const at::Tensor& scores, const at::Tensor& mask, bool is_causal) {
  const auto closed = [&](const at::Tensor& open) {
    return at::zeros({}, scores.options()).masked_fill(open.logical_not(), -INFINITY);
  };
  if (is_causal) {
    return closed(at::ones({scores.size(-2), scores.size(-1)}, scores.options().dtype(at::kBool)).tril());
  }
  return mask.defined() && mask.scalar_type() == at::kBool ? closed(mask) : mask;
}

// `counts_from_first`: whether, of other lengths than the keys', the first query sees the first key alone.
template <typename T>
std::vector<Jet> attention(const Call& c, const T& node, const at::Tensor& mask, bool counts_from_first) {
  if (node.dropout_p != 0) {
    throw Unsupported("attention with dropout");
  }
  if (c.inputs.size() > 3 && !c.inputs[3].is_zero()) {
    throw Unsupported("attention with a mask that depends on wrt");
  }
  const at::Tensor q = c.saved(node.query_), k = c.saved(node.key_), v = c.saved(node.value_);
  if (q.sizes().slice(0, q.dim() - 2) != k.sizes().slice(0, k.dim() - 2)) {
    throw Unsupported("attention whose heads share keys");
  }
  if (node.is_causal && q.size(-2) != k.size(-2) && !counts_from_first) {
    throw Unsupported("causal attention to more or fewer keys than queries");
  }
  const double scale = node.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(-1))));
  at::Tensor scores = multiply_matrices(q, k.mT()) * scale;
  const at::Tensor added = mask_of(scores, mask, node.is_causal);
  scores = added.defined() ? scores + added : scores;
  const Jet jet = scaled(matrix_product(c.frame, c.inputs[0], transposed(c.inputs[1]), q, k.mT()), scale);
  const at::Tensor weights = at::_safe_softmax(scores, -1);
  const Jet softmax = normalize(c.frame, Series(c.frame, jet, weights), weights, {-1}).softmax.jet(c.frame);
  return {matrix_product(c.frame, softmax, c.inputs[2], weights, v)};
}

} // namespace

void add_attention_rules(RuleTable& table) {
  add_rule_of_many<ScaledDotProductFlashAttentionForCpuBackward0>(
      table, nonlinear_degree, [](const Call& c, const ScaledDotProductFlashAttentionForCpuBackward0& node) {
        return attention(c, node, c.saved(node.attn_mask_), true);
      });
  add_rule_of_many<ScaledDotProductFlashAttentionBackward0>(
      table, nonlinear_degree, [](const Call& c, const ScaledDotProductFlashAttentionBackward0& node) {
        return attention(c, node, {}, false);
      });
  add_rule_of_many<ScaledDotProductEfficientAttentionBackward0>(
      table, nonlinear_degree, [](const Call& c, const ScaledDotProductEfficientAttentionBackward0& node) {
        return attention(c, node, c.saved(node.attn_bias_), true);
      });
  add_rule_of_many<ScaledDotProductCudnnAttentionBackward0>(
      table, nonlinear_degree, [](const Call& c, const ScaledDotProductCudnnAttentionBackward0& node) {
        return attention(c, node, c.saved(node.attn_bias_), false);
      });
}

} // namespace highgrad::taylor
