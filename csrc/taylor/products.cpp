// Rules of products, quotients and powers of tensors.

#include <ATen/TensorOperators.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_cross.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "taylor/affine.h"
#include "taylor/bilinear.h"
#include "taylor/recorded_product.h"
#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using namespace torch::autograd::generated;
using torch::autograd::Node;

// A natural exponent up to this goes by repeated squaring.
constexpr double kLargestNaturalPower = 64;

// [R, n, k] x [k, m], and [n, k] x [R, k, m], each as one product of matrices.
at::Tensor rows_by_matrix(const at::Tensor& rows, const at::Tensor& matrix) {
  if (rows.stride(1) == 0 && rows.size(1) > 1) {
    // The same for all samples, as the directions of an operator are.
    return at::mm(rows.select(1, 0), matrix).unsqueeze(1).expand({rows.size(0), rows.size(1), matrix.size(1)});
  }
  const at::Tensor flat = rows.reshape({rows.size(0) * rows.size(1), rows.size(2)});
  return at::mm(flat, matrix).view({rows.size(0), rows.size(1), matrix.size(1)});
}

at::Tensor matrix_by_rows(const at::Tensor& matrix, const at::Tensor& rows) {
  const at::Tensor flat = rows.permute({1, 0, 2}).reshape({rows.size(1), rows.size(0) * rows.size(2)});
  return at::mm(matrix, flat).view({matrix.size(0), rows.size(0), rows.size(2)}).permute({1, 0, 2});
}

// Products of a vector of each sample with another, [R, B, k] and [B, k]: what a library does for one of many small
// matrices takes longer than they do.
at::Tensor inner_products(const at::Tensor& rows, const at::Tensor& vectors) {
  return (rows * vectors).sum(2).unsqueeze(2).unsqueeze(3);
}

// The same for batches of matrices: [R, B, n, k] x [B, k, m], and [B, n, k] x [R, B, k, m].
at::Tensor rows_by_matrices(const at::Tensor& rows, const at::Tensor& matrices) {
  const int64_t num_rows = rows.size(0), batch = rows.size(1), height = rows.size(2), width = matrices.size(2);
  if (height == 1 && width == 1) {
    return inner_products(rows.squeeze(2), matrices.squeeze(2));
  }
  if (rows.stride(2) == 0 && height > 1) {
    // The same for all samples, as the directions of an operator are.
    return rows_by_matrices(rows.narrow(2, 0, 1), matrices).expand({num_rows, batch, height, width});
  }
  if (width <= height) {
    // A copy of the matrices for every row is less than the rows in another order.
    const at::Tensor repeated = matrices.expand({num_rows, batch, matrices.size(1), width});
    const at::Tensor flat = rows.reshape({num_rows * batch, height, rows.size(3)});
    return at::bmm(flat, repeated.reshape({num_rows * batch, matrices.size(1), width}))
        .view({num_rows, batch, height, width});
  }
  const at::Tensor flat = rows.transpose(0, 1).reshape({batch, num_rows * height, rows.size(3)});
  return at::bmm(flat, matrices).view({batch, num_rows, height, width}).transpose(0, 1);
}

at::Tensor matrices_by_rows(const at::Tensor& matrices, const at::Tensor& rows) {
  const int64_t num_rows = rows.size(0), batch = rows.size(1), width = rows.size(3);
  if (matrices.size(1) == 1 && width == 1) {
    return inner_products(rows.squeeze(3), matrices.squeeze(1));
  }
  const at::Tensor flat = rows.permute({1, 2, 0, 3}).reshape({batch, rows.size(2), num_rows * width});
  return at::bmm(matrices, flat).view({batch, matrices.size(1), num_rows, width}).permute({2, 0, 1, 3});
}

Jet matrix_product(const Call& call, const Jet& a, const Jet& b, const at::Tensor& a0, const at::Tensor& b0) {
  return bilinear(
      call.frame,
      a,
      b,
      [&](const at::Tensor& rows) { return rows_by_matrix(rows, b0); },
      [&](const at::Tensor& rows) { return matrix_by_rows(a0, rows); },
      [](const at::Tensor& x, const at::Tensor& y) { return at::bmm(x, y); });
}

Jet batched_product(const Call& call, const Jet& a, const Jet& b, const at::Tensor& a0, const at::Tensor& b0) {
  return bilinear(
      call.frame,
      a,
      b,
      [&](const at::Tensor& rows) { return rows_by_matrices(rows, b0); },
      [&](const at::Tensor& rows) { return matrices_by_rows(a0, rows); },
      [](const at::Tensor& x, const at::Tensor& y) { return at::matmul(x, y); });
}

Jet vector_product(const Call& call, const Jet& a, const Jet& b, const at::Tensor& a0, const at::Tensor& b0) {
  return bilinear(
      call.frame,
      a,
      b,
      [&](const at::Tensor& rows) { return at::matmul(rows, b0); },
      [&](const at::Tensor& rows) { return at::mm(rows, a0.t()); },
      [](const at::Tensor& x, const at::Tensor& y) { return at::bmm(x, y.unsqueeze(2)).squeeze(2); });
}

Jet dot_product(const Call& c, const at::Tensor& a0, const at::Tensor& b0) {
  return bilinear(
      c.frame,
      c.inputs[0],
      c.inputs[1],
      [&](const at::Tensor& rows) { return at::matmul(rows, b0); },
      [&](const at::Tensor& rows) { return at::matmul(rows, a0); },
      [](const at::Tensor& x, const at::Tensor& y) { return (x * y).sum(1); });
}

// beta * self + alpha * product, where self broadcasts.
Jet plus_product(const Call& call, const at::Scalar& beta, const at::Scalar& alpha, const Jet& product) {
  return add(call.frame, scaled(call.inputs[0], beta.toDouble()), scaled(product, alpha.toDouble()));
}

at::Tensor convolve(
    const at::Tensor& input,
    const at::Tensor& weight,
    const ConvolutionBackward0& node,
    int64_t times) {
  return at::convolution_symint(
      input,
      weight,
      /*bias=*/{},
      node.stride,
      node.padding,
      node.dilation,
      node.transposed,
      node.output_padding,
      node.groups * times);
}

// Of an input that depends on wrt.
Jet convolution(const Call& c, const ConvolutionBackward0& node) {
  const auto with_weight = [&](const at::Tensor& rows) {
    const at::Tensor result = convolve(rows.flatten(0, 1), c.saved(node.weight_), node, 1);
    return result.unflatten(0, {rows.size(0), rows.size(1)});
  };
  // Direction by direction, as groups of channels: [N, D C, ...] by [D O, C, ...].
  const auto product = [&](const at::Tensor& x, const at::Tensor& y) {
    const at::Tensor joined = x.transpose(0, 1).flatten(1, 2);
    const at::Tensor result = convolve(joined, y.flatten(0, 1), node, x.size(0));
    return result.unflatten(1, {x.size(0), -1}).transpose(0, 1);
  };
  // All rows of weights as channels of one output.
  const auto with_input = [&](const at::Tensor& rows) {
    const at::Tensor input = c.saved(node.input_);
    c10::DimVector shape{rows.size(0)};
    shape.append(input.sizes().begin(), input.sizes().end());
    return product(input.unsqueeze(0).expand(shape), rows);
  };
  const Jet result = bilinear(c.frame, c.inputs[0], c.inputs[1], with_weight, with_input, product);
  Jet bias = c.inputs[2];
  if (!bias.is_zero()) {
    // Channels are dimension 1 of the output.
    c10::DimVector shape(c.output_shape().size() + 1, 1);
    shape[0] = bias.rows.size(0);
    shape[2] = bias.rows.size(1);
    bias.rows = bias.rows.reshape(shape);
  }
  return add(c.frame, result, bias);
}

int64_t addmm_degree(Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
  return std::max(inputs[0], std::min(inputs[1] + inputs[2], kUnbounded));
}

void add_linear_algebra(RuleTable& table) {
  add_rule<MmBackward0>(table, product_degree, [](const Call& c, const MmBackward0& node) {
    return matrix_product(c, c.inputs[0], c.inputs[1], c.saved(node.self_), c.saved(node.mat2_));
  });
  add_rule<AddmmBackward0>(table, addmm_degree, [](const Call& c, const AddmmBackward0& node) {
    const Jet product = matrix_product(c, c.inputs[1], c.inputs[2], c.saved(node.mat1_), c.saved(node.mat2_));
    return plus_product(c, node.beta, node.alpha, product);
  });
  add_rule<BmmBackward0>(table, product_degree, [](const Call& c, const BmmBackward0& node) {
    return batched_product(c, c.inputs[0], c.inputs[1], c.saved(node.self_), c.saved(node.mat2_));
  });
  add_rule<BaddbmmBackward0>(table, addmm_degree, [](const Call& c, const BaddbmmBackward0& node) {
    const Jet product = batched_product(c, c.inputs[1], c.inputs[2], c.saved(node.batch1_), c.saved(node.batch2_));
    return plus_product(c, node.beta, node.alpha, product);
  });
  add_rule<AddbmmBackward0>(table, addmm_degree, [](const Call& c, const AddbmmBackward0& node) {
    Jet product = batched_product(c, c.inputs[1], c.inputs[2], c.saved(node.batch1_), c.saved(node.batch2_));
    if (!product.is_zero()) {
      product.rows = product.rows.sum(1);
    }
    return plus_product(c, node.beta, node.alpha, product);
  });
  add_rule<AddrBackward0>(table, addmm_degree, [](const Call& c, const AddrBackward0& node) {
    const at::Tensor a0 = c.saved(node.vec1_);
    const at::Tensor b0 = c.saved(node.vec2_);
    const auto outer = [](const at::Tensor& x, const at::Tensor& y) { return x.unsqueeze(-1) * y.unsqueeze(-2); };
    const Jet product = bilinear(
        c.frame,
        c.inputs[1],
        c.inputs[2],
        [&](const at::Tensor& rows) { return outer(rows, b0); },
        [&](const at::Tensor& rows) { return outer(a0, rows); },
        outer);
    return plus_product(c, node.beta, node.alpha, product);
  });
  add_rule<MvBackward0>(table, product_degree, [](const Call& c, const MvBackward0& node) {
    return vector_product(c, c.inputs[0], c.inputs[1], c.saved(node.self_), c.saved(node.vec_));
  });
  add_rule<AddmvBackward0>(table, addmm_degree, [](const Call& c, const AddmvBackward0& node) {
    const Jet product = vector_product(c, c.inputs[1], c.inputs[2], c.saved(node.mat_), c.saved(node.vec_));
    return plus_product(c, node.beta, node.alpha, product);
  });
  add_rule<LinalgCrossBackward0>(table, product_degree, [](const Call& c, const LinalgCrossBackward0& node) {
    const auto rank = static_cast<int64_t>(c.output_shape().size());
    const int64_t dim = at::maybe_wrap_dim(node.dim, rank) - rank;
    const at::Tensor a0 = c.saved(node.self_);
    const at::Tensor b0 = c.saved(node.other_);
    const auto cross = [rank, dim](const at::Tensor& x, const at::Tensor& y) {
      return at::linalg_cross(align(x, rank), align(y, rank), dim);
    };
    return bilinear(
        c.frame,
        c.inputs[0],
        c.inputs[1],
        [&](const at::Tensor& rows) { return cross(rows, b0.unsqueeze(0)); },
        [&](const at::Tensor& rows) { return cross(a0.unsqueeze(0), rows); },
        cross);
  });
  add_rule<DotBackward0>(table, product_degree, [](const Call& c, const DotBackward0& node) {
    return dot_product(c, c.saved(node.self_), c.saved(node.tensor_));
  });
  add_rule<VdotBackward0>(table, product_degree, [](const Call& c, const VdotBackward0& node) {
    return dot_product(c, c.saved(node.self_), c.saved(node.other_));
  });
  const auto convolution_degree = [](Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
    return std::max(std::min(inputs[0] + inputs[1], kUnbounded), inputs[2]);
  };
  add_rule<ConvolutionBackward0>(table, convolution_degree, [](const Call& c, const ConvolutionBackward0& node) -> Jet {
    if (c.inputs[0].is_zero()) {
      return transposed_vjp(c)[0]; // affine in weight and bias
    }
    return convolution(c, node);
  });
}

Jet product(const Call& c, const Jet& a, const Jet& b, const at::Tensor& a0, const at::Tensor& b0) {
  if (c.frame.is_multivariate() && !a.is_zero() && !b.is_zero()) {
    return multiply(c.frame, c.series(0, a0), c.series(1, b0)).jet(c.frame);
  }
  if (const auto fused = multiply_by_element(c.frame, {a, a0}, {b, b0})) {
    return *fused;
  }
  const auto dim = static_cast<int64_t>(c.output_shape().size());
  return bilinear(
      c.frame,
      a,
      b,
      [&](const at::Tensor& rows) { return align(rows, dim) * b0; },
      [&](const at::Tensor& rows) { return align(rows, dim) * a0; },
      [&](const at::Tensor& x, const at::Tensor& y) { return align(x, dim) * align(y, dim); });
}

// Sum over `sumdim` of i1 * i2 * i3, each with new dimensions at its `expand`: F.bilinear.
Jet trilinear(const Call& c, const TrilinearBackward0& node) {
  const auto expanded = [](const at::Tensor& tensor, const std::vector<int64_t>& dims, int64_t first) {
    at::Tensor result = tensor;
    for (const int64_t dim : dims) {
      result = result.unsqueeze(dim + first);
    }
    return result;
  };
  const auto series = [&](size_t k, const at::Tensor& value, const std::vector<int64_t>& dims) {
    const Jet& jet = c.inputs[k];
    if (!value.defined()) { // not saved, since no other factor has a jet that it would multiply
      return Series(c.frame, {expanded(jet.rows, dims, 1), jet.terms}, at::zeros_like(expanded(jet.rows[0], dims, 0)));
    }
    return Series(c.frame, jet.is_zero() ? jet : Jet{expanded(jet.rows, dims, 1), jet.terms}, expanded(value, dims, 0));
  };
  const Series first = series(0, c.saved(node.i1_), node.expand1);
  const Series second = series(1, c.saved(node.i2_), node.expand2);
  const Series third = series(2, c.saved(node.i3_), node.expand3);
  const Jet product = multiplied_out(c.frame, multiply(c.frame, multiply(c.frame, first, second), third).jet(c.frame));
  std::vector<int64_t> dims;
  for (const int64_t dim : node.sumdim) {
    dims.push_back(dim + 1);
  }
  return {dims.empty() ? product.rows : product.rows.sum(dims), product.terms};
}

int64_t quotient_degree(Node& /*node*/, c10::ArrayRef<int64_t> inputs) {
  return inputs[1] == 0 ? inputs[0] : kUnbounded;
}

void add_quotients(RuleTable& table) {
  add_rule<TrilinearBackward0>(table, product_degree, &trilinear);
  add_rule<MulBackward0>(table, product_degree, [](const Call& c, const MulBackward0& node) {
    return product(c, c.inputs[0], c.inputs[1], c.saved(node.self_), c.saved(node.other_));
  });
  add_rule<MulBackward1>(table, linear_degree, [](const Call& c, const MulBackward1& node) {
    return scaled(c.inputs[0], node.other.toDouble());
  });
  add_rule<DivBackward0>(table, quotient_degree, [](const Call& c, const DivBackward0& node) -> Jet {
    const at::Tensor divisor = c.saved(node.other_);
    if (c.inputs[1].is_zero()) {
      return {align(c.inputs[0].rows, static_cast<int64_t>(c.output_shape().size())) / divisor, c.inputs[0].terms};
    }
    return divide(c.frame, c.series(0, c.saved(node.self_)), c.series(1, divisor)).jet(c.frame);
  });
  add_rule<DivBackward1>(table, linear_degree, [](const Call& c, const DivBackward1& node) -> Jet {
    return {c.inputs[0].rows / node.other, c.inputs[0].terms};
  });
}

bool is_natural(double exponent) {
  return exponent >= 0 && exponent == std::floor(exponent) && exponent <= kLargestNaturalPower;
}

int64_t power_degree(Node& node, c10::ArrayRef<int64_t> inputs) {
  const double exponent = static_cast<const PowBackward0&>(node).exponent.toDouble();
  if (inputs[0] == 0 || exponent == 0) {
    return 0;
  }
  return is_natural(exponent) ? std::min(inputs[0] * static_cast<int64_t>(exponent), kUnbounded) : kUnbounded;
}

// x^r by the derivatives r (r - 1) ... (r - m + 1) x^(r - m): right at x = 0 wherever they exist there.
Series power_of(const Frame& frame, const Series& x, const at::Tensor& exponent) {
  std::vector<at::Tensor> derivatives;
  at::Tensor factor = at::ones_like(exponent);
  for (const auto m : c10::irange(frame.order)) {
    factor = factor * (exponent - m) / static_cast<double>(m + 1);
    const at::Tensor derivative = factor * at::pow(x[0], exponent - (m + 1));
    derivatives.push_back(at::where(factor == 0, at::zeros_like(derivative), derivative));
  }
  return compose(frame, x, derivatives);
}

void add_powers(RuleTable& table) {
  add_rule<PowBackward0>(table, power_degree, [](const Call& c, const PowBackward0& node) -> Jet {
    const double exponent = node.exponent.toDouble();
    if (exponent == 0) {
      return {};
    }
    const at::Tensor base = c.saved(node.self_);
    const Series x = c.series(0, base);
    return (is_natural(exponent) ? natural_power(c.frame, x, static_cast<int64_t>(exponent))
                                 : power_of(c.frame, x, at::full({}, exponent, base.options())))
        .jet(c.frame);
  });
  add_rule<PowBackward1>(table, nonlinear_degree, [](const Call& c, const PowBackward1& node) {
    const at::Tensor base = c.saved(node.self_);
    const at::Tensor exponent = c.saved(node.exponent_);
    if (c.inputs[1].is_zero()) {
      return power_of(c.frame, c.series(0, base), exponent).jet(c.frame);
    }
    if ((base <= 0).any().item<bool>()) {
      throw Unsupported("a power of a base that is not positive, by an exponent that depends on wrt");
    }
    const Series logarithm = log(c.frame, c.series(0, base), base.log());
    return exp(c.frame, multiply(c.frame, c.series(1, exponent), logarithm), at::pow(base, exponent)).jet(c.frame);
  });
  add_rule<PowBackward2>(table, nonlinear_degree, [](const Call& c, const PowBackward2& node) -> Jet {
    const double base = node.self.toDouble();
    if (base == 0) {
      return {};
    }
    const at::Tensor result = c.saved(node.result_);
    return exp(c.frame, scale(c.frame, c.series(0, result), std::log(base)), result).jet(c.frame);
  });
}

} // namespace

void add_product_rules(RuleTable& table) {
  add_linear_algebra(table);
  add_quotients(table);
  add_powers(table);
}

} // namespace highgrad::taylor
