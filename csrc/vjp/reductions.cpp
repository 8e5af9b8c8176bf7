// Rules of sums, softmaxes and scans along dimensions.

#include <ATen/Functions.h>
#include <ATen/WrapDimUtils.h>
#include <c10/util/accumulate.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <utility>

#include "tape/streams.h"
#include "vjp/rule.h"

namespace highgrad::vjp {
Shape reduced(Shape shape, at::OptionalIntArrayRef dims) {
  if (!dims.has_value() || dims->empty()) {
    return Shape(shape.size(), 1);
  }
  for (const int64_t dim : *dims) {
    if (!shape.empty()) {
      shape[at::maybe_wrap_dim(dim, static_cast<int64_t>(shape.size()))] = 1;
    }
  }
  return shape;
}

namespace {

using namespace torch::autograd::generated;

// The batch of a reduction's cotangents, spread over what was reduced and divided by `divisor`.
auto spread(const Shape& input, Shape kept, double divisor) {
  return [input, kept = std::move(kept), divisor](const at::Tensor& grad) {
    const at::Tensor scaled = divisor == 1 ? grad : grad / divisor;
    return scaled.reshape(Call::batch_of(grad, kept)).expand(Call::batch_of(grad, input));
  };
}

// Equal extrema share the cotangent.
at::Tensor shares(const at::Tensor& x, const at::Tensor& result, const Shape& kept) {
  const at::Tensor is_chosen = x.eq(result.reshape(kept));
  std::vector<int64_t> dims;
  for (int64_t dim = 0; dim < x.dim(); ++dim) {
    if (kept[dim] == 1) {
      dims.push_back(dim);
    }
  }
  const at::Tensor count = dims.empty() ? is_chosen : is_chosen.sum(dims, /*keepdim=*/true);
  return is_chosen.to(x.scalar_type()) / count;
}

template <typename T>
void add_extremum(RuleTable& table) {
  add_rule<T>(table, [](const Call& call, const T& node) {
    const Shape kept = reduced(*call.given[0], at::IntArrayRef(node.dim));
    return by_factor(kept, shares(call.saved(node.self_), call.saved(node.result_), kept));
  });
}

// Of all elements: what is not chosen has zero, even of a cotangent that is not finite. NaN is chosen where there is
// one.
template <typename T>
void add_choice_of_all(RuleTable& table) {
  add_unary<T>(table, [](const Call& call, const T& node) {
    const at::Tensor x = call.saved(node.self_), result = call.saved(node.result_);
    const at::Tensor is_chosen = x.eq(result).logical_or_(x.isnan().logical_and_(result.isnan()));
    return [is_chosen, count = is_chosen.sum(), kept = Shape(x.dim(), 1)](const at::Tensor& grad) {
      return keep_where(is_chosen, (grad / count).reshape(Call::batch_of(grad, kept)));
    };
  });
}

// Whether products may be divided by their factors; looking costs an accelerator a synchronisation.
bool has_no_zeros(const at::Tensor& x) {
  return !x.eq(0).any().item<bool>();
}

// Of a product along dimensions that have size 1 in `kept`.
BatchedVjp product(const at::Tensor& x, const at::Tensor& result, const Shape& kept) {
  return x.device().is_cpu() && has_no_zeros(x) ? by_factor(kept, result.reshape(kept) / x) : nullptr;
}

void add_products(RuleTable& table) {
  add_rule<ProdBackward0>(table, [](const Call& call, const ProdBackward0& node) {
    const at::Tensor x = call.saved(node.self_);
    return product(x, call.saved(node.result_), Shape(x.dim(), 1));
  });
  add_rule<ProdBackward1>(table, [](const Call& call, const ProdBackward1& node) {
    return product(
        call.saved(node.self_), call.saved(node.result_), reduced(*call.given[0], at::IntArrayRef(node.dim)));
  });
  add_rule<CumprodBackward0>(table, [](const Call& call, const CumprodBackward0& node) -> BatchedVjp {
    const at::Tensor x = call.saved(node.self_);
    // torch's own looks, too, where it can, or needs as many steps as there are factors.
    if (x.dim() == 0 || x.is_meta() || tape::is_captured(x.device()) || !has_no_zeros(x)) {
      return nullptr;
    }
    if (x.size(node.dim) == 1) {
      return [](Cotangents& taken, Cotangents& given) { given[0] = std::move(taken[0]); };
    }
    return [x, y = call.saved(node.result_), dim = batched_dim(node.dim, call.taken[0])](
               Cotangents& taken, Cotangents& given) {
      given[0] = at::mul(taken[0], y).flip(dim).cumsum(dim).flip(dim).div(x);
    };
  });
}

// Of y_i = log(sum of exp(x_j) for j up to i): exp(x_j - y_i), as a quotient of exponentials where these do not
// overflow. Looking costs an accelerator a synchronisation.
BatchedVjp logcumsumexp(const Call& call, const LogcumsumexpBackward0& node) {
  const at::Tensor x = call.saved(node.self_), y = call.saved(node.result_);
  if (x.dim() == 0 || x.numel() == 0 || !x.device().is_cpu()) {
    return nullptr;
  }
  const double most = x.scalar_type() == at::kDouble ? 600 : x.scalar_type() == at::kFloat ? 60 : 0;
  const auto range = (y.detach().amax(node.dim) - x.detach().amin(node.dim)).max();
  if (!(range.item<double>() <= most)) { // nor NaN
    return nullptr;
  }
  const at::Tensor last = y.detach().select(node.dim, -1).unsqueeze(node.dim);
  return [factor = (x - last).exp(), weight = (last - y).exp(), dim = batched_dim(node.dim, call.taken[0])](
             Cotangents& taken, Cotangents& given) {
    given[0] = at::mul(taken[0], weight).flip(dim).cumsum(dim).flip(dim).mul(factor);
  };
}

} // namespace

void add_reduction_rules(RuleTable& table) {
  add_extremum<AmaxBackward0>(table);
  add_extremum<AminBackward0>(table);
  add_choice_of_all<MaxBackward1>(table);
  add_choice_of_all<MedianBackward0>(table);
  add_choice_of_all<MinBackward1>(table);
  add_choice_of_all<NanmedianBackward0>(table);
  add_products(table);
  add_unary<TraceBackward0>(table, [](const Call& call, const TraceBackward0& node) {
    const Shape& shape = *call.given[0];
    const auto options = node.input_metadata(0).options().dtype(at::kBool);
    return [is_diagonal = at::eye(shape[0], shape[1], options)](const at::Tensor& grad) {
      return keep_where(is_diagonal, grad.unsqueeze(1).unsqueeze(2));
    };
  });
  add_unary<SumBackward0>(table, [](const Call& call, const SumBackward0& /*node*/) {
    return spread(*call.given[0], reduced(*call.given[0], std::nullopt), 1);
  });
  add_unary<SumBackward1>(table, [](const Call& call, const SumBackward1& node) {
    return spread(*call.given[0], reduced(*call.given[0], dims_of(node)), 1);
  });
  add_unary<MeanBackward0>(table, [](const Call& call, const MeanBackward0& /*node*/) {
    return spread(
        *call.given[0],
        reduced(*call.given[0], std::nullopt),
        static_cast<double>(c10::multiply_integers(*call.given[0])));
  });
  add_unary<MeanBackward1>(table, [](const Call& call, const MeanBackward1& node) {
    Shape kept = reduced(*call.given[0], dims_of(node));
    const double count =
        static_cast<double>(c10::multiply_integers(*call.given[0])) / static_cast<double>(c10::multiply_integers(kept));
    return spread(*call.given[0], std::move(kept), count);
  });
  add_rule<SoftmaxBackward0>(table, [](const Call& call, const SoftmaxBackward0& node) -> BatchedVjp {
    if (call.taken[0].empty()) {
      return nullptr;
    }
    return [y = call.saved(node.result_), dim = batched_dim(node.dim, call.taken[0])](
               Cotangents& taken, Cotangents& given) {
      const at::Tensor product = at::mul(taken[0], y);
      given[0] = at::addcmul(product, y, product.sum(dim, /*keepdim=*/true), -1);
    };
  });
  add_rule<LogSoftmaxBackward0>(table, [](const Call& call, const LogSoftmaxBackward0& node) -> BatchedVjp {
    if (call.taken[0].empty()) {
      return nullptr;
    }
    return [y = call.saved(node.result_).exp(), dim = batched_dim(node.dim, call.taken[0])](
               Cotangents& taken, Cotangents& given) {
      given[0] = at::addcmul(taken[0], y, taken[0].sum(dim, /*keepdim=*/true), -1);
    };
  });
  add_unary<LogsumexpBackward0>(table, [](const Call& call, const LogsumexpBackward0& node) {
    const Shape kept = reduced(*call.given[0], at::IntArrayRef(node.dim));
    const at::Tensor factor = (call.saved(node.self_) - call.saved(node.result_).reshape(kept)).exp();
    return [kept, factor](const at::Tensor& grad) { return at::mul(grad.reshape(Call::batch_of(grad, kept)), factor); };
  });
  add_rule<LogcumsumexpBackward0>(table, &logcumsumexp);
  add_rule<CumsumBackward0>(table, [](const Call& call, const CumsumBackward0& node) -> BatchedVjp {
    if (call.taken[0].empty()) {
      return nullptr;
    }
    return [dim = batched_dim(node.dim, call.taken[0])](Cotangents& taken, Cotangents& given) {
      given[0] = taken[0].flip(dim).cumsum(dim).flip(dim);
    };
  });
}

} // namespace highgrad::vjp
