// Rules of inverses, solutions, determinants and factors of matrices, each by the equation that defines it: with
// A X = B, A_0 X_k = B_k - sum over j > 0 of A_j X_(k-j).

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_lu_factor.h>
#include <ATen/ops/linalg_lu_solve.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "taylor/bilinear.h"
#include "taylor/rule.h"
#include "taylor/sum.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;
using torch::autograd::Node;

// (a b)_k without the terms of j = 0 and j = k, as in all equations below, where these are solved for.
at::Tensor crossed_matrices(const Frame& frame, int64_t k, const Series& a, const Series& b) {
  return crossed(frame, k, a, b, &multiply_matrices);
}

// (a b)_k without the term a_0 b_k.
at::Tensor without_last(const Frame& frame, int64_t k, const Series& a, const Series& b) {
  const at::Tensor first = a[k].defined() ? multiply_matrices(a[k], b[0]) : at::Tensor();
  return plus(first, crossed_matrices(frame, k, a, b));
}

Series transposed(const Series& a) {
  return a.map([](const at::Tensor& k) { return k.mT(); });
}

// Solves with one matrix, or one for each of a batch, again and again. It is factored once, but where that would have
// to be recorded.
class Solver {
 public:
  explicit Solver(at::Tensor matrix) : matrix_(std::move(matrix)) {
    if (!at::GradMode::is_enabled()) {
      std::tie(factors_, pivots_) = at::linalg_lu_factor(matrix_);
    }
  }

  // [R, *batch, n, m]: as one system of R m right-hand sides.
  at::Tensor solve(const at::Tensor& rows) const {
    c10::DimVector batch(rows.sizes().begin() + 1, rows.sizes().end() - 2);
    const at::Tensor side = rows.movedim(0, -2).flatten(-2, -1); // [*batch, n, R m]
    at::Tensor found =
        factors_.defined() ? at::linalg_lu_solve(factors_, pivots_, side) : at::linalg_solve(matrix_, side);
    return found.unflatten(-1, {rows.size(0), rows.size(-1)}).movedim(-2, 0);
  }

 private:
  at::Tensor matrix_;
  at::Tensor factors_;
  at::Tensor pivots_;
};

// X of A X = B. `solve` solves with A_0.
template <typename Solve>
Series solve_series(const Frame& frame, const Series& a, const Series& b, at::Tensor x, const Solve& solve) {
  Series result(std::move(x));
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    const at::Tensor known = without_last(frame, k, a, result);
    if (!known.defined() && !b[k].defined()) {
      result.push({});
      continue;
    }
    result.push(solve(known.defined() ? (b[k].defined() ? b[k] - known : -known) : b[k]));
  }
  return result;
}

// Jets of A and B that may broadcast, or B be a vector, brought to matrices of equally many dimensions; and back.
Jet solve_equation(
    const Call& c,
    const Jet& jet_a,
    const Jet& jet_b,
    at::Tensor a,
    at::Tensor x,
    bool left,
    const std::function<at::Tensor(const at::Tensor&)>& part,
    const std::function<at::Tensor(const at::Tensor& matrix, const at::Tensor& rows)>& solve) {
  const Frame& frame = c.frame;
  const bool is_vector = x.dim() < a.dim();
  const auto turn = [&](const at::Tensor& matrix) { return left ? matrix : matrix.mT(); };
  x = turn(is_vector ? x.unsqueeze(-1) : x);
  const int64_t dim = x.dim();
  Jet b = jet_b;
  if (!b.is_zero() && is_vector) {
    b.rows = b.rows.unsqueeze(-1);
  }
  const Series known(frame, b, at::Tensor(), dim);
  const Series matrix = Series(frame, jet_a, a, dim).map(part);
  a = turn(matrix[0]);
  const auto turned = [&](const Series& series) {
    return series.map([&](const at::Tensor& k) { return k.defined() ? turn(k) : k; });
  };
  c10::DimVector batch(x.sizes().begin(), x.sizes().end() - 2);
  const auto solve_all = [&](const at::Tensor& rows) {
    c10::DimVector shape{rows.size(0)};
    shape.append(batch.begin(), batch.end());
    shape.append({rows.size(-2), rows.size(-1)});
    return solve(a, rows.expand(shape));
  };
  Series result = turned(solve_series(frame, turned(matrix), turned(known), x, solve_all));
  if (is_vector) {
    result = result.map([](const at::Tensor& k) { return k.squeeze(-1); });
  }
  return result.jet(frame);
}

at::Tensor whole(const at::Tensor& matrix) {
  return matrix;
}

Jet solve_general(const Call& c, const LinalgSolveExBackward0& node) {
  const at::Tensor a = c.saved(node.A_);
  std::optional<Solver> solver;
  return solve_equation(
      c,
      c.inputs[0],
      c.inputs[1],
      a,
      c.saved(node.result_),
      node.left,
      whole,
      [&](const at::Tensor& matrix, const at::Tensor& rows) {
        if (!solver.has_value()) {
          solver.emplace(matrix);
        }
        return solver->solve(rows);
      });
}

Jet solve_triangular(const Call& c, const LinalgSolveTriangularBackward0& node) {
  const int64_t diagonal = node.unitriangular ? 1 : 0;
  const auto part = [&](const at::Tensor& k) { return node.upper ? k.triu(diagonal) : k.tril(-diagonal); };
  const bool upper = node.upper == node.left;
  return solve_equation(
      c,
      c.inputs[0],
      c.inputs[1],
      c.saved(node.self_),
      c.saved(node.result_),
      node.left,
      part,
      [&](const at::Tensor& matrix, const at::Tensor& rows) {
        return at::linalg_solve_triangular(matrix, rows, upper, /*left=*/true, node.unitriangular);
      });
}

// Y of Y A = 1.
Series inverse(const Frame& frame, const Series& a, const at::Tensor& y) {
  Series result(y);
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    at::Tensor sum = a[k].defined() ? multiply_matrices(y, a[k]) : at::Tensor();
    sum = plus(sum, crossed_matrices(frame, k, result, a));
    result.push(sum.defined() ? -multiply_matrices(sum, y) : sum);
  }
  return result;
}

// log |det A|, without its value, by k l_k = sum of j tr(A_j Y_(k-j)) with the inverse Y.
Series log_determinant(const Frame& frame, const Series& a) {
  const Frame lowered = frame.lowered();
  const at::Tensor& matrix = a[0];
  const at::Tensor identity = at::eye(matrix.size(-1), matrix.options()).expand_as(matrix);
  const Series y = inverse(lowered, a, at::linalg_solve(matrix, identity));
  const auto trace = [](const at::Tensor& x, const at::Tensor& z) { return (x * z.mT()).sum({-2, -1}); };
  Series slope{at::Tensor()};
  for (const auto k : c10::irange<int64_t>(1, a.terms() + 1)) {
    slope.push(a[k].defined() ? a[k] * static_cast<double>(k) : a[k]);
  }
  Series result{at::Tensor()};
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    at::Tensor sum = slope[k].defined() ? trace(slope[k], y[0]) : at::Tensor();
    sum = plus(sum, crossed(frame, k, slope, y, trace));
    result.push(sum.defined() ? sum / static_cast<double>(k) : sum);
  }
  return result;
}

// Largest matrices whose determinant is the polynomial that it is, also where it is zero.
constexpr int64_t kExpanded = 3;

Series small_determinant(const Frame& frame, const Series& a) {
  const auto entry = [&](int64_t i, int64_t j) {
    return a.map([&](const at::Tensor& k) { return k.select(-2, i).select(-1, j); });
  };
  const auto minor = [&](int64_t j, int64_t l) {
    const int64_t n = a[0].size(-1);
    const Series ahead = multiply(frame, entry(n - 2, j), entry(n - 1, l));
    return add(frame, ahead, multiply(frame, entry(n - 2, l), entry(n - 1, j)), -1);
  };
  switch (a[0].size(-1)) {
    case 1:
      return entry(0, 0);
    case 2:
      return minor(0, 1);
    default: {
      const Series first = multiply(frame, entry(0, 0), minor(1, 2));
      const Series second = multiply(frame, entry(0, 1), minor(2, 0));
      return add(frame, add(frame, first, second), multiply(frame, entry(0, 2), minor(0, 1)));
    }
  }
}

Jet determinant(const Call& c, const LinalgDetBackward0& node) {
  const at::Tensor matrix = c.saved(node.A_);
  const int64_t n = matrix.size(-1);
  if (n == 0) {
    return {};
  }
  const Series a(c.frame, c.inputs[0], matrix);
  if (n <= kExpanded) {
    return small_determinant(c.frame, a).jet(c.frame);
  }
  {
    const at::NoGradGuard not_recorded;
    const at::Tensor pivots = std::get<0>(at::linalg_lu_factor(matrix)).diagonal(0, -2, -1).abs();
    const double tiny = 100 * static_cast<double>(n) *
        (matrix.scalar_type() == at::kFloat ? std::numeric_limits<float>::epsilon()
                                            : std::numeric_limits<double>::epsilon());
    if ((pivots.amin(-1) <= pivots.amax(-1) * tiny).any().item<bool>()) {
      throw Unsupported("the determinant of a matrix that is almost singular");
    }
  }
  const at::Tensor value = c.saved(node.result_);
  return exp(c.frame, log_determinant(c.frame, a), value).jet(c.frame);
}

int64_t determinant_degree(Node& node, c10::ArrayRef<int64_t> inputs) {
  const int64_t n = static_cast<LinalgDetBackward0&>(node).A_.unpack(node.getptr()).size(-1);
  return inputs[0] >= kUnbounded ? kUnbounded : std::min(inputs[0] * n, kUnbounded);
}

// exp A by scaling and squaring in the algebra of series: a Taylor polynomial of A / 2^s, squared s times. Of
// coefficient k its truncation error is that of a polynomial k degrees lower.
Series exponential(const Frame& frame, const Series& a) {
  constexpr double kLargestNorm = 0.5;
  constexpr int64_t kDegree = 14; // 0.5^15 / 15! < 3e-17
  const auto product = [&](const Series& x, const Series& y) {
    Series result(multiply_matrices(x[0], y[0]));
    for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
      const at::Tensor last = y[k].defined() ? multiply_matrices(x[0], y[k]) : at::Tensor();
      result.push(plus(last, without_last(frame, k, x, y)));
    }
    return result;
  };
  const double norm = a[0].detach().abs().sum(-2).amax().item<double>();
  const int squarings = std::isfinite(norm) && norm > kLargestNorm ? std::ilogb(norm / kLargestNorm) + 1 : 0;
  const Series scaled = scale(frame, a, std::ldexp(1, -squarings));
  const at::Tensor identity = at::eye(a[0].size(-1), a[0].options());
  Series result(identity.expand_as(a[0]));
  for (int64_t degree = kDegree + frame.order; degree > 0; --degree) {
    const Series rest = scale(frame, product(scaled, result), 1. / static_cast<double>(degree));
    result = rest.with_value(rest[0] + identity);
  }
  for (int k = 0; k < squarings; ++k) {
    result = product(result, result);
  }
  return result;
}

// L of A = L L^T: L_k = L_0 phi(L_0^-1 (A_k - sum of L_j L_(k-j)^T) L_0^-T), where phi takes the lower triangle and
// halves the diagonal. torch's derivatives are those of the symmetric part of A.
Series cholesky(const Frame& frame, const Series& a, const at::Tensor& l) {
  const auto divide_by = [&](const at::Tensor& rows) { return at::linalg_solve_triangular(l, rows, /*upper=*/false); };
  Series result(l);
  for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
    at::Tensor rest = crossed_matrices(frame, k, result, transposed(result));
    if (a[k].defined()) {
      const at::Tensor symmetric = (a[k] + a[k].mT()) / 2;
      rest = rest.defined() ? symmetric - rest : symmetric;
    } else if (rest.defined()) {
      rest = -rest;
    }
    if (rest.defined()) {
      const at::Tensor scaled = divide_by(divide_by(rest).mT());
      rest = multiply_matrices(l, (scaled.tril() + scaled.tril(-1)) / 2);
    }
    result.push(rest);
  }
  return result;
}

// X of (L L^T) X = B, as two triangular systems.
Jet cholesky_solve(const Call& c, const CholeskySolveBackward0& node) {
  const at::Tensor factor = c.saved(node.input2_);
  const at::Tensor x = c.saved(node.result_);
  const int64_t dim = x.dim();
  Series l(c.frame, c.inputs[1], factor, dim);
  l = (node.upper ? transposed(l) : l).map([](const at::Tensor& k) { return k.tril(); });
  const Series b(c.frame, c.inputs[0], at::Tensor(), dim);
  const Series lt = transposed(l);
  const auto solve_with = [&](const at::Tensor& matrix, bool upper) {
    return [&x, matrix, upper](const at::Tensor& rows) {
      c10::DimVector shape{rows.size(0)};
      shape.append(x.sizes().begin(), x.sizes().end());
      return at::linalg_solve_triangular(matrix, rows.expand(shape), upper);
    };
  };
  const Series half = solve_series(c.frame, l, b, multiply_matrices(lt[0], x), solve_with(l[0], false));
  return solve_series(c.frame, lt, half, x, solve_with(lt[0], true)).jet(c.frame);
}

} // namespace

void add_matrix_rules(RuleTable& table) {
  add_rule<LinalgSolveExBackward0>(table, nonlinear_degree, &solve_general);
  add_rule<LinalgSolveTriangularBackward0>(table, nonlinear_degree, &solve_triangular);
  for (const std::type_index& type :
       std::initializer_list<std::type_index>{typeid(LinalgSolveExBackward0), typeid(LinalgSolveTriangularBackward0)}) {
    table[type].degree = [](Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
      return inputs[0] == 0 ? inputs[1] : kUnbounded;
    };
  }
  add_rule<LinalgInvExBackward0>(table, nonlinear_degree, [](const Call& c, const LinalgInvExBackward0& node) {
    const at::Tensor y = c.saved(node.inverse_);
    return inverse(c.frame, Series(c.frame, c.inputs[0], at::Tensor()), y).jet(c.frame);
  });
  add_rule<LinalgMatrixExpBackward0>(table, nonlinear_degree, [](const Call& c, const LinalgMatrixExpBackward0& node) {
    const at::Tensor a = c.saved(node.self_);
    return a.numel() == 0 ? Jet() : exponential(c.frame, Series(c.frame, c.inputs[0], a)).jet(c.frame);
  });
  add_rule<LinalgDetBackward0>(table, determinant_degree, &determinant);
  add_rule_of_many<LinalgSlogdetBackward0>(
      table, nonlinear_degree, [](const Call& c, const LinalgSlogdetBackward0& node) {
        // The sign does not change.
        const Series a(c.frame, c.inputs[0], c.saved(node.A_));
        return std::vector<Jet>{{}, log_determinant(c.frame, a).jet(c.frame)};
      });
  add_rule<LinalgCholeskyExBackward0>(
      table, nonlinear_degree, [](const Call& c, const LinalgCholeskyExBackward0& node) {
        const at::Tensor factor = c.saved(node.L_);
        const Series a(c.frame, c.inputs[0], factor);
        const Series lower = cholesky(c.frame, a, node.upper ? factor.mT() : factor);
        return (node.upper ? transposed(lower) : lower).jet(c.frame);
      });
  add_rule<CholeskySolveBackward0>(table, nonlinear_degree, &cholesky_solve);
}

} // namespace highgrad::taylor
