// Rules of eigenvalue, singular value and QR decompositions of real matrices: formulas that take a batch of cotangents
// as they are. (J. Townsend, "Differentiating the singular value decomposition", 2016; S. Walter and L. Lehmann,
// "Algorithmic differentiation of linear algebra functions", 2010.)

#include <ATen/Functions.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// The matrix of b_j - b_i, with ones on its diagonal.
at::Tensor gaps(const at::Tensor& values) {
  const at::Tensor eye = at::eye(values.size(-1), at::TensorOptions(values.device()).dtype(at::kBool));
  return (values.unsqueeze(-2) - values.unsqueeze(-1)).masked_fill(eye, 1);
}

at::Tensor skew(const at::Tensor& matrix) {
  return matrix - matrix.mT();
}

at::Tensor sum(const at::Tensor& a, const at::Tensor& b) {
  return !a.defined() ? b : !b.defined() ? a : a + b;
}

at::Tensor on_diagonal(const at::Tensor& values) {
  return values.defined() ? values.diag_embed() : values;
}

BatchedVjp eigenvalues(const Call& call, const LinalgEighBackward0& node) {
  const at::Tensor values = call.saved(node.eigenvalues_), vectors = call.saved(node.eigenvectors_);
  return [values, vectors](Cotangents& taken, Cotangents& given) {
    if (!taken[1].defined()) {
      given[0] = at::matmul(vectors * taken[0].unsqueeze(-2), vectors.mT());
      return;
    }
    const at::Tensor turned = skew(at::matmul(vectors.mT(), taken[1])) / (2 * gaps(values));
    given[0] = at::matmul(vectors, at::matmul(sum(turned, on_diagonal(taken[0])), vectors.mT()));
  };
}

BatchedVjp singular_values(const Call& call, const LinalgSvdBackward0& node) {
  const at::Tensor s = call.saved(node.S_), u = call.saved(node.U_), vh = call.saved(node.Vh_);
  const int64_t rows = u.size(-2), columns = vh.size(-1);
  if (u.size(-1) != s.size(-1) || vh.size(-2) != s.size(-1)) {
    return nullptr; // with vectors of which nothing is determined
  }
  return [=](Cotangents& taken, Cotangents& given) {
    const at::Tensor &by_u = taken[0], &by_vh = taken[2];
    const at::Tensor apart = by_u.defined() || by_vh.defined() ? gaps(s * s) : at::Tensor();
    at::Tensor inner = on_diagonal(taken[1]);
    if (by_u.defined()) {
      inner = sum(inner, skew(at::matmul(u.mT(), by_u)) / apart * s.unsqueeze(-2));
    }
    if (by_vh.defined()) {
      inner = sum(inner, s.unsqueeze(-1) * skew(at::matmul(vh, by_vh.mT())) / apart);
    }
    given[0] = at::matmul(u, at::matmul(inner, vh));
    if (by_u.defined() && rows > columns) {
      const at::Tensor scaled = by_u / s.unsqueeze(-2);
      given[0] = given[0] + at::matmul(scaled - at::matmul(u, at::matmul(u.mT(), scaled)), vh);
    }
    if (by_vh.defined() && columns > rows) {
      const at::Tensor scaled = by_vh / s.unsqueeze(-1);
      given[0] = given[0] + at::matmul(u, scaled - at::matmul(at::matmul(scaled, vh.mT()), vh));
    }
  };
}

BatchedVjp orthogonal_triangular(const Call& call, const LinalgQrBackward0& node) {
  const at::Tensor q = call.saved(node.Q_), r = call.saved(node.R_);
  // Only what torch differentiates, too, of matrices that are not wide.
  if (node.mode == "r" || r.size(-2) != r.size(-1)) {
    return nullptr;
  }
  return [q, r](Cotangents& taken, Cotangents& given) {
    const at::Tensor &by_q = taken[0], &by_r = taken[1];
    at::Tensor inner = by_r.defined() ? at::matmul(by_r, r.mT()) : at::Tensor();
    inner = by_q.defined() ? sum(inner, -at::matmul(q.mT(), by_q)) : inner;
    const at::Tensor upper = inner.triu();
    const at::Tensor right = sum(at::matmul(q, upper + upper.triu(1).mT()), by_q);
    given[0] = at::linalg_solve_triangular(r.mT(), right, /*upper=*/false, /*left=*/false);
  };
}

} // namespace

void add_decomposition_rules(RuleTable& table) {
  add_rule<LinalgEighBackward0>(table, &eigenvalues);
  add_rule<LinalgSvdBackward0>(table, &singular_values);
  add_rule<LinalgQrBackward0>(table, &orthogonal_triangular);
}

} // namespace highgrad::vjp
