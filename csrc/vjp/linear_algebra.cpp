// Rules of solvers, factorisations and determinants. A batch of cotangents becomes more right-hand sides.

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

// [B, *batch, n, k] as [*batch, n, B * k], for what solves for columns.
at::Tensor as_columns(const at::Tensor& rows) {
  return rows.movedim(0, -2).flatten(-2);
}

at::Tensor from_columns(const at::Tensor& columns, int64_t batch) {
  return columns.unflatten(-1, {batch, -1}).movedim(-2, 0);
}

// [B, *batch, k, n] as [*batch, B * k, n], for what solves for rows.
at::Tensor as_rows(const at::Tensor& rows) {
  return rows.movedim(0, -3).flatten(-3, -2);
}

at::Tensor from_rows(const at::Tensor& rows, int64_t batch) {
  return rows.unflatten(-2, {batch, -1}).movedim(-3, 0);
}

// `solve` of a batch, from the left or from the right.
template <typename Solve>
at::Tensor solve_all(const at::Tensor& grad, bool left, Solve solve) {
  return left ? from_columns(solve(as_columns(grad)), grad.size(0)) : from_rows(solve(as_rows(grad)), grad.size(0));
}

// Of A @ X = B, or X @ A = B: the cotangent of A from that of B.
at::Tensor by_matrix(const at::Tensor& by_right, const at::Tensor& solution, bool left) {
  return (left ? at::matmul(by_right, solution.mT()) : at::matmul(solution.mT(), by_right)).neg();
}

bool have_equal_batch(const at::Tensor& matrix, const at::Tensor& solution) {
  return matrix.dim() == solution.dim() &&
      matrix.sizes().slice(0, matrix.dim() - 2) == solution.sizes().slice(0, matrix.dim() - 2);
}

BatchedVjp solve(const Call& call, const LinalgSolveExBackward0& node) {
  const at::Tensor a = call.saved(node.A_), result = call.saved(node.result_);
  const bool is_vector = result.dim() == a.dim() - 1;
  const at::Tensor x = is_vector ? result.unsqueeze(-1) : result;
  if (!have_equal_batch(a, x) || (is_vector && !node.left) || x.numel() == 0) {
    return nullptr;
  }
  // What torch has saved of its factorisation is that of the matrix or of its transpose, as its version chooses.
  at::Tensor lu, pivots;
  if (!at::GradMode::is_enabled()) {
    std::tie(lu, pivots, std::ignore) = at::linalg_lu_factor_ex(a.mT());
  }
  return [=, left = node.left, wants_matrix = call.wants(0), wants_right = call.wants(1)](
             Cotangents& taken, Cotangents& given) {
    if (!taken[0].defined()) {
      return;
    }
    const at::Tensor grad = is_vector ? taken[0].unsqueeze(-1) : taken[0];
    const at::Tensor by_right = solve_all(grad, left, [&](const at::Tensor& right) {
      return lu.defined() ? at::linalg_lu_solve(lu, pivots, right, left) : at::linalg_solve(a.mT(), right, left);
    });
    if (wants_matrix) {
      given[0] = by_matrix(by_right, x, left);
    }
    if (wants_right) {
      given[1] = is_vector ? by_right.squeeze(-1) : by_right;
    }
  };
}

BatchedVjp triangular_solve(const Call& call, const LinalgSolveTriangularBackward0& node) {
  const at::Tensor a = call.saved(node.self_), x = call.saved(node.result_);
  if (!have_equal_batch(a, x) || x.numel() == 0) {
    return nullptr;
  }
  return [=,
          upper = node.upper,
          left = node.left,
          unitriangular = node.unitriangular,
          wants_matrix = call.wants(0),
          wants_right = call.wants(1)](Cotangents& taken, Cotangents& given) {
    const at::Tensor by_right = solve_all(taken[0], left, [&](const at::Tensor& right) {
      return at::linalg_solve_triangular(a.mT(), right, !upper, left, unitriangular);
    });
    if (wants_matrix) {
      const at::Tensor whole = by_matrix(by_right, x, left);
      const int64_t diagonal = unitriangular ? 1 : 0;
      given[0] = upper ? whole.triu(diagonal) : whole.tril(-diagonal);
    }
    given[1] = wants_right ? by_right : at::Tensor();
  };
}

// With S = tril(L^T grad): L^-T (S + tril(S, -1)^T) / 2 L^-1.
// (I. Murray, "Differentiation of the Cholesky decomposition", 2016.)
BatchedVjp cholesky(const Call& call, const LinalgCholeskyExBackward0& node) {
  const at::Tensor factor = call.saved(node.L_);
  if (factor.numel() == 0) {
    return nullptr;
  }
  const at::Tensor lower = node.upper ? factor.mT() : factor;
  return [lower, upper = node.upper](Cotangents& taken, Cotangents& given) {
    if (!taken[0].defined()) {
      return;
    }
    const at::Tensor s = at::matmul(lower.mT(), upper ? taken[0].mT() : taken[0]).tril();
    const at::Tensor symmetric = (s + s.tril(-1).mT()) / 2;
    const at::Tensor half = solve_all(symmetric, /*left=*/true, [&](const at::Tensor& right) {
      return at::linalg_solve_triangular(lower.mT(), right, /*upper=*/true);
    });
    given[0] = solve_all(half, /*left=*/false, [&](const at::Tensor& right) {
      return at::linalg_solve_triangular(lower, right, /*upper=*/false, /*left=*/false);
    });
  };
}

BatchedVjp cholesky_solve(const Call& call, const CholeskySolveBackward0& node) {
  const at::Tensor factor = call.saved(node.input2_), x = call.saved(node.result_);
  if (!have_equal_batch(factor, x) || x.numel() == 0) {
    return nullptr;
  }
  return [=, upper = node.upper, wants_right = call.wants(0), wants_factor = call.wants(1)](
             Cotangents& taken, Cotangents& given) {
    const at::Tensor by_right = solve_all(
        taken[0], /*left=*/true, [&](const at::Tensor& right) { return at::cholesky_solve(right, factor, upper); });
    given[0] = wants_right ? by_right : at::Tensor();
    if (wants_factor) {
      const at::Tensor by_inverse = at::matmul(by_right, x.mT());
      const at::Tensor both = (by_inverse + by_inverse.mT()).neg();
      given[1] = upper ? at::matmul(factor, both) : at::matmul(both, factor);
    }
  };
}

// The transposed inverse, or none where it does not exist, which torch's backward bears; looking costs an accelerator
// a synchronisation.
at::Tensor inverse_transpose(const at::Tensor& matrix, const at::Tensor& determinant) {
  if (!matrix.device().is_cpu() || matrix.numel() == 0 || determinant.eq(0).any().item<bool>()) {
    return {};
  }
  return std::get<0>(at::linalg_inv_ex(matrix)).mT();
}

BatchedVjp determinant(const Call& call, const LinalgDetBackward0& node) {
  const at::Tensor result = call.saved(node.result_);
  const at::Tensor inverse = inverse_transpose(call.saved(node.A_), result);
  if (!inverse.defined()) {
    return nullptr;
  }
  return [factor = result.unsqueeze(-1).unsqueeze(-1) * inverse](Cotangents& taken, Cotangents& given) {
    if (taken[0].defined()) {
      given[0] = at::mul(taken[0].unsqueeze(-1).unsqueeze(-1), factor);
    }
  };
}

BatchedVjp log_determinant(const Call& call, const LinalgSlogdetBackward0& node) {
  const at::Tensor inverse = inverse_transpose(call.saved(node.A_), call.saved(node.sign_));
  if (!inverse.defined()) {
    return nullptr;
  }
  return [inverse](Cotangents& taken, Cotangents& given) {
    // The sign of a real determinant is constant.
    if (taken[1].defined()) {
      given[0] = at::mul(taken[1].unsqueeze(-1).unsqueeze(-1), inverse);
    }
  };
}

// The derivative of the exponential at A in direction G stands in the upper right corner of exp [[A, G], [0, A]].
// (R. Mathias, "A chain rule for matrix functions and applications", 1996.)
at::Tensor exponential_along(const at::Tensor& matrix, const at::Tensor& directions) {
  const int64_t n = matrix.size(-1);
  const at::Tensor diagonal = matrix.expand_as(directions);
  const at::Tensor upper = at::cat({diagonal, directions}, -1);
  const at::Tensor lower = at::cat({at::zeros_like(diagonal), diagonal}, -1);
  return at::linalg_matrix_exp(at::cat({upper, lower}, -2)).narrow(-2, 0, n).narrow(-1, n, n);
}

// The adjoint is the derivative at A^T, which is linear in its direction: of more rows than a matrix has elements, one
// product with the derivatives in the directions of these.
BatchedVjp matrix_exponential(const Call& call, const LinalgMatrixExpBackward0& node) {
  const at::Tensor matrix = call.saved(node.self_).mT();
  if (matrix.numel() == 0) {
    return nullptr;
  }
  return [matrix, units = matrix.size(-1) * matrix.size(-1)](Cotangents& taken, Cotangents& given) {
    const at::Tensor& grad = taken[0];
    if (grad.size(0) <= units) {
      given[0] = exponential_along(matrix, grad);
      return;
    }
    Shape one(grad.dim(), 1);
    one[0] = units;
    one[grad.dim() - 2] = one[grad.dim() - 1] = matrix.size(-1);
    Shape all = grad.sizes().vec();
    all[0] = units;
    const at::Tensor basis = at::eye(units, grad.options()).view(one).expand(all);
    const at::Tensor map = exponential_along(matrix, basis).flatten(-2).movedim(0, -2);
    given[0] = at::matmul(grad.flatten(-2).movedim(0, -2), map).movedim(-2, 0).reshape(grad.sizes());
  };
}

// The product of three tensors, each broadcast along some dimensions, summed over some.
BatchedVjp trilinear(const Call& call, const TrilinearBackward0& node) {
  const at::Tensor operands[] = {
      call.wants(1) || call.wants(2) ? call.saved(node.i1_) : at::Tensor(),
      call.wants(0) || call.wants(2) ? call.saved(node.i2_) : at::Tensor(),
      call.wants(0) || call.wants(1) ? call.saved(node.i3_) : at::Tensor()};
  const std::vector<int64_t>* missing[] = {&node.expand1, &node.expand2, &node.expand3};
  const auto rank = static_cast<int64_t>(
      call.given[0].has_value() ? call.given[0]->size() + node.expand1.size()
                                : operands[0].dim() + node.expand1.size());
  const auto letters = [rank](const std::vector<int64_t>& without) {
    std::string names;
    for (char dim = 0; dim < rank; ++dim) {
      if (std::find(without.begin(), without.end(), dim) == without.end()) {
        names += static_cast<char>('a' + dim);
      }
    }
    return names;
  };
  const std::string batch = "z";
  std::vector<std::pair<std::string, std::vector<at::Tensor>>> products(3);
  for (size_t link = 0; link < 3; ++link) {
    if (call.wants(link)) {
      std::string equation = batch + letters(node.sumdim);
      for (size_t other = 0; other < 3; ++other) {
        if (other != link) {
          equation += "," + letters(*missing[other]);
          products[link].second.push_back(operands[other]);
        }
      }
      products[link].first = equation + "->" + batch + letters(*missing[link]);
    }
  }
  return [products](Cotangents& taken, Cotangents& given) {
    for (size_t link = 0; link < 3; ++link) {
      const auto& [equation, others] = products[link];
      if (!others.empty()) {
        given[link] = at::einsum(equation, {taken[0], others[0], others[1]});
      }
    }
  };
}

} // namespace

void add_linear_algebra_rules(RuleTable& table) {
  add_rule<LinalgSolveExBackward0>(table, &solve);
  add_rule<LinalgSolveTriangularBackward0>(table, &triangular_solve);
  add_rule<LinalgCholeskyExBackward0>(table, &cholesky);
  add_rule<CholeskySolveBackward0>(table, &cholesky_solve);
  add_rule<LinalgDetBackward0>(table, &determinant);
  add_rule<LinalgSlogdetBackward0>(table, &log_determinant);
  add_rule<LinalgMatrixExpBackward0>(table, &matrix_exponential);
  add_rule<TrilinearBackward0>(table, &trilinear);
}

} // namespace highgrad::vjp
