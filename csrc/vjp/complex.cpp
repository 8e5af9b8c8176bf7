// Rules of Nodes that take or hand on complex cotangents. Such a cotangent is the derivative by the real part plus i
// times that by the imaginary part, so that products take conjugates. Of what is handed on to a real operand, the real
// part counts.

#include <ATen/Functions.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "vjp/rule.h"

namespace highgrad::vjp {
namespace {

using namespace torch::autograd::generated;

at::Tensor conjugate(const at::Tensor& factor) {
  return factor.conj().resolve_conj();
}

// Of real and imaginary parts along the halved dimension of a spectrum of `numel` real elements: those of `inner`, but
// for the first frequency and the middle one, which are their own mirror images and real.
at::Tensor half_spectrum(int64_t numel, double inner, const at::TensorOptions& real) {
  const int64_t half = numel / 2 + 1;
  at::Tensor factor = at::full({half, 2}, inner, real);
  for (const int64_t own : {int64_t{0}, numel % 2 == 0 ? half - 1 : int64_t{0}}) {
    factor[own][0].fill_(1);
    factor[own][1].fill_(0);
  }
  return factor;
}

at::TensorOptions real_options(const torch::autograd::Node& node) {
  const auto type = node.input_metadata(0).dtype();
  return node.input_metadata(0).options().dtype(c10::toRealValueType(c10::typeMetaToScalarType(type)));
}

void add_transforms(RuleTable& table) {
  add_unary<FftC2CBackward0>(table, [](const Call& call, const FftC2CBackward0& node) {
    return
        [dims = batched_dims(to_ints(node.dim), call.taken[0]),
         normalization = node.normalization,
         forward = !node.forward](const at::Tensor& grad) { return at::_fft_c2c(grad, dims, normalization, forward); };
  });
  // Of a half of the spectrum: what is real, from half of a spectrum.
  add_unary<FftR2CBackward0>(
      table, [](const Call& call, const FftR2CBackward0& node) -> std::function<at::Tensor(const at::Tensor&)> {
        std::vector<int64_t> dims = batched_dims(node.dim, call.taken[0]);
        const int64_t normalization = node.normalization;
        if (!node.onesided) {
          return [dims, normalization](const at::Tensor& grad) {
            return at::real(at::_fft_c2c(grad, dims, normalization, /*forward=*/false));
          };
        }
        const int64_t last = dims.back();
        const int64_t numel = (*call.given[0])[last - 1];
        dims.pop_back();
        return [=, factor = half_spectrum(numel, 0.5, real_options(node))](const at::Tensor& grad) {
          at::Tensor lines = dims.empty() ? grad : at::_fft_c2c(grad, dims, normalization, /*forward=*/false);
          lines = at::mul(at::view_as_real(lines.movedim(last, -1)), factor);
          return at::_fft_c2r(at::view_as_complex(lines), {grad.dim() - 1}, normalization, numel).movedim(-1, last);
        };
      });
  add_unary<FftC2RBackward0>(table, [](const Call& call, const FftC2RBackward0& node) {
    const std::vector<int64_t> dims = batched_dims(node.dim, call.taken[0]);
    const int64_t last = dims.back(), numel = call.taken[0][last - 1];
    Shape along(call.taken[0].size(), 1);
    along[last - 1] = numel / 2 + 1;
    // Each frequency that is not its own mirror image counts twice.
    const at::Tensor twice = half_spectrum(numel, 2, real_options(node)).select(1, 0).view(along);
    return [dims, normalization = node.normalization, twice](const at::Tensor& grad) {
      return at::mul(at::_fft_r2c(grad, dims, normalization, /*onesided=*/true), twice);
    };
  });
}

void add_parts(RuleTable& table) {
  add_unary<ViewAsRealBackward0>(table, [](const Call& /*call*/, const ViewAsRealBackward0& /*node*/) {
    return [](const at::Tensor& grad) { return at::view_as_complex(grad.contiguous()); };
  });
  add_unary<ViewAsComplexBackward0>(table, [](const Call& /*call*/, const ViewAsComplexBackward0& /*node*/) {
    return [](const at::Tensor& grad) { return at::view_as_real(grad.resolve_conj()); };
  });
  add_unary<ConjBackward0>(table, [](const Call& /*call*/, const ConjBackward0& /*node*/) {
    return [](const at::Tensor& grad) { return conjugate(grad); };
  });
  add_unary<ConjPhysicalBackward0>(table, [](const Call& /*call*/, const ConjPhysicalBackward0& /*node*/) {
    return [](const at::Tensor& grad) { return conjugate(grad); };
  });
  add_identity<ToCopyBackward0>(table);
  add_rule<ComplexBackward0>(table, [](const Call& call, const ComplexBackward0& /*node*/) -> BatchedVjp {
    return [by_real = call.wants(0), by_imaginary = call.wants(1)](Cotangents& taken, Cotangents& given) {
      given[0] = by_real ? at::real(taken[0]) : at::Tensor();
      given[1] = by_imaginary ? at::imag(taken[0]) : at::Tensor();
    };
  });
  add_unary<AbsBackward0>(table, [](const Call& call, const AbsBackward0& node) {
    return [direction = call.saved(node.self_).sgn()](const at::Tensor& grad) { return at::mul(grad, direction); };
  });
  add_unary<ExpBackward0>(table, [](const Call& call, const ExpBackward0& node) {
    return [factor = conjugate(call.saved(node.result_))](const at::Tensor& grad) { return at::mul(grad, factor); };
  });
}

void add_products(RuleTable& table) {
  add_rule<MulBackward0>(table, [](const Call& call, const MulBackward0& node) -> BatchedVjp {
    const at::Tensor other = call.wants(0) ? conjugate(call.saved(node.other_)) : at::Tensor();
    const at::Tensor self = call.wants(1) ? conjugate(call.saved(node.self_)) : at::Tensor();
    return [other, self](Cotangents& taken, Cotangents& given) {
      given[0] = other.defined() ? at::mul(taken[0], other) : at::Tensor();
      given[1] = self.defined() ? at::mul(taken[0], self) : at::Tensor();
    };
  });
  add_unary<MulBackward1>(table, [](const Call& /*call*/, const MulBackward1& node) {
    return [factor = node.other.conj()](const at::Tensor& grad) { return at::mul(grad, factor); };
  });
  add_rule<DivBackward0>(table, [](const Call& call, const DivBackward0& node) -> BatchedVjp {
    const at::Tensor other = call.saved(node.other_);
    const at::Tensor by_other = call.wants(1) ? conjugate(-(call.saved(node.self_) / other) / other) : at::Tensor();
    return [other = conjugate(other), by_other, by_self = call.wants(0)](Cotangents& taken, Cotangents& given) {
      given[0] = by_self ? at::div(taken[0], other) : at::Tensor();
      given[1] = by_other.defined() ? at::mul(taken[0], by_other) : at::Tensor();
    };
  });
  add_unary<DivBackward1>(table, [](const Call& /*call*/, const DivBackward1& node) {
    return [divisor = node.other.conj()](const at::Tensor& grad) { return at::div(grad, divisor); };
  });
}

// Products of matrices, or of as many matrices as the cotangents have.
template <typename T>
void add_matrix_product(RuleTable& table) {
  add_rule<T>(table, [](const Call& call, const T& node) -> BatchedVjp {
    const at::Tensor self = call.wants(1) ? conjugate(call.saved(node.self_).mT()) : at::Tensor();
    const at::Tensor other = call.wants(0) ? conjugate(call.saved(node.mat2_).mT()) : at::Tensor();
    return [self, other](Cotangents& taken, Cotangents& given) {
      given[0] = other.defined() ? at::matmul(taken[0], other) : at::Tensor();
      given[1] = self.defined() ? at::matmul(self, taken[0]) : at::Tensor();
    };
  });
}

} // namespace

void add_complex_rules(RuleTable& table) {
  add_shape_rules(table);
  add_transforms(table);
  add_parts(table);
  add_sum_rules(table);
  add_products(table);
  add_matrix_product<MmBackward0>(table);
  add_matrix_product<BmmBackward0>(table);
}

} // namespace highgrad::vjp
