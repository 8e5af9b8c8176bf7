// Rules of matrix products. A batch of cotangents becomes more rows, or columns, of one product.

#include <ATen/ops/bmm.h>
#include <ATen/ops/linalg_cross.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "vjp/rule.h"

namespace highgrad::vjp {

at::Tensor batches_times_right(const at::Tensor& grad, const at::Tensor& right) {
  const int64_t batch = grad.size(0), matrices = grad.size(1), n = grad.size(2), m = grad.size(3);
  return grad.transpose(0, 1)
      .reshape({matrices, batch * n, m})
      .bmm(right)
      .view({matrices, batch, n, right.size(2)})
      .transpose(0, 1);
}

namespace {

using namespace torch::autograd::generated;

// [B, n, m] by [m, k]: [B, n, k].
at::Tensor times_right(const at::Tensor& grad, const at::Tensor& right) {
  return grad.reshape({grad.size(0) * grad.size(1), grad.size(2)})
      .mm(right)
      .view({grad.size(0), grad.size(1), right.size(1)});
}

// [k, n] by [B, n, m]: [B, k, m].
at::Tensor times_left(const at::Tensor& left, const at::Tensor& grad) {
  const int64_t batch = grad.size(0);
  if (left.size(1) == 1) {
    return at::mul(grad, left);
  }
  if (grad.size(2) == 1) {
    return grad.squeeze(2).mm(left.t()).unsqueeze(2);
  }
  return at::bmm(left.unsqueeze(0).expand({batch, left.size(0), left.size(1)}), grad);
}

// [b, k, n] by [B, b, n, m]: [B, b, k, m], as b products of B * m columns.
at::Tensor batches_times_left(const at::Tensor& left, const at::Tensor& grad) {
  return batches_times_right(grad.transpose(2, 3), left.transpose(1, 2)).transpose(2, 3);
}

using Product = at::Tensor (*)(const at::Tensor&, const at::Tensor&);

// Of addend + alpha * first @ second, with or without addend; `link` is the first factor's.
BatchedVjp matrix_product(
    const Call& call,
    const at::Tensor& first,
    const at::Tensor& second,
    size_t link,
    const at::Scalar& alpha,
    const at::Scalar& beta,
    Product right,
    Product left) {
  const bool by_addend = link > 0 && call.wants(0);
  const at::Tensor second_t = second.defined() ? second.mT() : second;
  const at::Tensor first_t = first.defined() ? first.mT() : first;
  return [=, by_first = call.wants(link), by_second = call.wants(link + 1)](Cotangents& taken, Cotangents& given) {
    const at::Tensor grad = std::move(taken[0]);
    if (by_first) {
      given[link] = times(right(grad, second_t), alpha);
    }
    if (by_second) {
      given[link + 1] = times(left(first_t, grad), alpha);
    }
    if (by_addend) {
      given[0] = times(grad, beta);
    }
  };
}

// Of addend + alpha * first @ second with a sparse matrix `first`, which is a constant.
BatchedVjp sparse_product(
    const Call& call,
    const at::Tensor& first,
    size_t link,
    const at::Scalar& alpha,
    const at::Scalar& beta) {
  if (call.wants(link) || !call.wants(link + 1) || first.requires_grad() ||
      (first.layout() != at::kSparse && first.layout() != at::kSparseCsr)) {
    return nullptr;
  }
  const at::Tensor first_t = first.layout() == at::kSparse ? first.t() : first.t().to_sparse_csr();
  return [first_t, link, alpha, beta, by_addend = link > 0 && call.wants(0)](Cotangents& taken, Cotangents& given) {
    const at::Tensor grad = std::move(taken[0]); // [B, n, m]
    const int64_t batch = grad.size(0), m = grad.size(2);
    const at::Tensor columns = grad.transpose(0, 1).reshape({grad.size(1), batch * m});
    given[link + 1] = times(first_t.mm(columns).view({first_t.size(0), batch, m}).transpose(0, 1), alpha);
    if (by_addend) {
      given[0] = times(grad, beta);
    }
  };
}

// Of addend + alpha * matrix @ vector.
BatchedVjp vector_product(
    const Call& call,
    const at::Tensor& matrix,
    const at::Tensor& vector,
    size_t link,
    const at::Scalar& alpha,
    const at::Scalar& beta) {
  const bool by_addend = link > 0 && call.wants(0);
  return [=, by_matrix = call.wants(link), by_vector = call.wants(link + 1)](Cotangents& taken, Cotangents& given) {
    const at::Tensor grad = std::move(taken[0]);
    if (by_matrix) {
      given[link] = times(at::mul(grad.unsqueeze(2), vector), alpha);
    }
    if (by_vector) {
      given[link + 1] = times(grad.mm(matrix), alpha);
    }
    if (by_addend) {
      given[0] = times(grad, beta);
    }
  };
}

// What the Node saved of a factor, which it did if the other one's cotangent is wanted.
at::Tensor factor(const Call& call, const torch::autograd::SavedVariable& variable, size_t needed_by) {
  return call.wants(needed_by) ? call.saved(variable) : at::Tensor();
}

// Null for sparse factors.
BatchedVjp if_strided(const at::Tensor& first, const at::Tensor& second, const std::function<BatchedVjp()>& make) {
  const auto is_odd = [](const at::Tensor& t) { return t.defined() && t.layout() != at::kStrided; };
  return is_odd(first) || is_odd(second) ? nullptr : make();
}

template <typename T>
using Saved = torch::autograd::SavedVariable T::*;

// first @ second.
template <typename T>
void add_product(RuleTable& table, Saved<T> one, Saved<T> other, Product right, Product left) {
  add_rule<T>(table, [=](const Call& call, const T& node) {
    const at::Tensor first = factor(call, node.*one, 1), second = factor(call, node.*other, 0);
    return if_strided(first, second, [&] { return matrix_product(call, first, second, 0, 1, 1, right, left); });
  });
}

// beta * addend + alpha * first @ second.
template <typename T>
void add_sum_with_product(RuleTable& table, Saved<T> one, Saved<T> other, Product right, Product left) {
  add_rule<T>(table, [=](const Call& call, const T& node) {
    const at::Tensor first = factor(call, node.*one, 2), second = factor(call, node.*other, 1);
    return if_strided(
        first, second, [&] { return matrix_product(call, first, second, 1, node.alpha, node.beta, right, left); });
  });
}

} // namespace

void add_product_rules(RuleTable& table) {
  add_rule<MmBackward0>(table, [](const Call& call, const MmBackward0& node) {
    const at::Tensor first = factor(call, node.self_, 1), second = factor(call, node.mat2_, 0);
    if (first.defined() && first.layout() != at::kStrided) {
      return sparse_product(call, first, 0, 1, 1);
    }
    return if_strided(
        first, second, [&] { return matrix_product(call, first, second, 0, 1, 1, &times_right, &times_left); });
  });
  add_rule<SparseAddmmBackward0>(table, [](const Call& call, const SparseAddmmBackward0& node) -> BatchedVjp {
    const at::Tensor first = factor(call, node.mat1_, 2);
    return first.defined() ? sparse_product(call, first, 1, node.alpha, node.beta) : nullptr;
  });
  add_product<BmmBackward0>(
      table, &BmmBackward0::self_, &BmmBackward0::mat2_, &batches_times_right, &batches_times_left);
  add_sum_with_product<AddmmBackward0>(
      table, &AddmmBackward0::mat1_, &AddmmBackward0::mat2_, &times_right, &times_left);
  add_sum_with_product<BaddbmmBackward0>(
      table, &BaddbmmBackward0::batch1_, &BaddbmmBackward0::batch2_, &batches_times_right, &batches_times_left);
  add_rule<MvBackward0>(table, [](const Call& call, const MvBackward0& node) {
    const at::Tensor matrix = factor(call, node.self_, 1), vector = factor(call, node.vec_, 0);
    return if_strided(matrix, vector, [&] { return vector_product(call, matrix, vector, 0, 1, 1); });
  });
  add_rule<AddmvBackward0>(table, [](const Call& call, const AddmvBackward0& node) {
    const at::Tensor matrix = factor(call, node.mat_, 2), vector = factor(call, node.vec_, 1);
    return if_strided(matrix, vector, [&] { return vector_product(call, matrix, vector, 1, node.alpha, node.beta); });
  });
  add_rule<LinalgCrossBackward0>(table, [](const Call& call, const LinalgCrossBackward0& node) -> BatchedVjp {
    const at::Tensor self = factor(call, node.self_, 1), other = factor(call, node.other_, 0);
    // The same from the end, with the batch in front and dimensions of size 1 where an operand has none.
    const int64_t dim = node.dim < 0 ? node.dim : node.dim - static_cast<int64_t>(call.taken[0].size());
    return [self, other, dim](Cotangents& taken, Cotangents& given) {
      const at::Tensor& grad = taken[0];
      given[0] = other.defined() ? at::linalg_cross(other.unsqueeze(0), grad, dim) : at::Tensor();
      given[1] = self.defined() ? at::linalg_cross(grad, self.unsqueeze(0), dim) : at::Tensor();
    };
  });
  add_rule<LinalgInvExBackward0>(table, [](const Call& call, const LinalgInvExBackward0& node) -> BatchedVjp {
    const at::Tensor inverse = call.saved(node.inverse_).mT();
    if (inverse.dim() != 2) {
      return nullptr;
    }
    return [inverse](Cotangents& taken, Cotangents& given) {
      if (taken[0].defined()) {
        given[0] = times_left(inverse, times_right(taken[0], inverse)).neg();
      }
    };
  });
  const auto dot = [](const at::Tensor& self, const at::Tensor& other) -> BatchedVjp {
    return [self, other](Cotangents& taken, Cotangents& given) {
      const at::Tensor grad = taken[0].unsqueeze(1);
      given[0] = other.defined() ? at::mul(grad, other) : at::Tensor();
      given[1] = self.defined() ? at::mul(grad, self) : at::Tensor();
    };
  };
  add_rule<DotBackward0>(table, [dot](const Call& call, const DotBackward0& node) {
    return dot(factor(call, node.self_, 1), factor(call, node.tensor_, 0));
  });
  add_rule<VdotBackward0>(table, [dot](const Call& call, const VdotBackward0& node) {
    return dot(factor(call, node.self_, 1), factor(call, node.other_, 0));
  });
  add_rule<AddrBackward0>(table, [](const Call& call, const AddrBackward0& node) -> BatchedVjp {
    const at::Tensor first = factor(call, node.vec1_, 2), second = factor(call, node.vec2_, 1);
    return [first, second, alpha = node.alpha, beta = node.beta, by_self = call.wants(0)](
               Cotangents& taken, Cotangents& given) {
      given[1] = second.defined() ? times(at::matmul(taken[0], second), alpha) : at::Tensor();
      given[2] = first.defined() ? times(at::matmul(taken[0].mT(), first), alpha) : at::Tensor();
      given[0] = by_self ? times(std::move(taken[0]), beta) : at::Tensor();
    };
  });
}

} // namespace highgrad::vjp
