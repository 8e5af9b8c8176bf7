#include "ops/compose_jet.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/TensorOptions.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <numeric>

namespace highgrad::ops {
namespace {

using Seeds = at::TensorList;
using Constants = at::ArrayRef<double>;
using Weights = const std::optional<at::Tensor>&;

// Of a LocalEquation, as the operators take them.
std::vector<double> constants_of(const LocalEquation<double>& p) {
  const ElementEquation<double>& equation = p.equation;
  return {equation.constant, equation.linear, equation.square, equation.companion, p.rate, p.threshold};
}

std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

// The fewest and the most of a kind.
std::pair<int64_t, int64_t> seeds_of(LocalKind kind) {
  switch (kind) {
    case LocalKind::kGiven:
      return {1, 1};
    case LocalKind::kSolution:
      return {1, 2};
    case LocalKind::kGelu:
      return {3, 3};
    default:
      return {2, 2};
  }
}

void check_seeds(const at::Tensor& x, const Composition& composition, int64_t slope_orders) {
  const auto [fewest, most] = seeds_of(composition.equation.kind);
  const auto count = static_cast<int64_t>(composition.seeds.size());
  TORCH_CHECK(fewest <= count && count <= most, "compose_jet: expected ", fewest, " to ", most, " seeds, got ", count);
  const bool is_given = composition.equation.kind == LocalKind::kGiven;
  for (const at::Tensor& seed : composition.seeds) {
    TORCH_CHECK(
        seed.scalar_type() == x.scalar_type(),
        "compose_jet: expected seeds of ",
        x.scalar_type(),
        ", got ",
        seed.scalar_type());
    TORCH_CHECK(
        seed.device() == x.device(),
        "compose_jet: expected every seed on ",
        x.device(),
        ", got one on ",
        seed.device());
    const at::IntArrayRef sizes = is_given && seed.dim() > 0 ? seed.sizes().slice(1) : seed.sizes();
    TORCH_CHECK(
        sizes == x.sizes().slice(1) && (!is_given || seed.size(0) >= composition.order() + slope_orders),
        "compose_jet: expected seeds of x's shape ",
        x.sizes().slice(1),
        is_given ? ", behind one dimension of at least as many orders as are needed" : "",
        ", got ",
        seed.sizes());
  }
}

} // namespace

int64_t Composition::rows(int64_t orders) const {
  const int64_t all = std::accumulate(counts.begin(), counts.begin() + orders, int64_t{0});
  return collapsed && orders == order() ? all - counts.back() + 1 : all;
}

bool has_compose_jet(c10::Device device, int64_t order) {
  if (device.is_cpu()) {
    return true;
  }
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("highgrad_ext::compose_jet", "");
  return order <= kMostComposedOrder &&
      op.hasKernelForDispatchKey(c10::computeDispatchKey(std::nullopt, std::nullopt, device));
}

at::Tensor compose_jet(const at::Tensor& x, const Composition& composition) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("highgrad_ext::compose_jet", "")
          .typed<at::Tensor(const at::Tensor&, Seeds, int64_t, Constants, int64_t, at::IntArrayRef, bool, Weights)>();
  return op.call(
      x,
      composition.seeds,
      static_cast<int64_t>(composition.equation.kind),
      constants_of(composition.equation),
      composition.terms,
      composition.counts,
      composition.collapsed,
      optional(composition.weights));
}

std::tuple<at::Tensor, at::Tensor> compose_jet_backward(
    const at::Tensor& by_rows,
    const at::Tensor& x,
    const Composition& composition) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("highgrad_ext::compose_jet_backward", "")
                             .typed<std::tuple<at::Tensor, at::Tensor>(
                                 const at::Tensor&,
                                 const at::Tensor&,
                                 Seeds,
                                 int64_t,
                                 Constants,
                                 int64_t,
                                 at::IntArrayRef,
                                 bool,
                                 Weights)>();
  return op.call(
      by_rows,
      x,
      composition.seeds,
      static_cast<int64_t>(composition.equation.kind),
      constants_of(composition.equation),
      composition.terms,
      composition.counts,
      composition.collapsed,
      optional(composition.weights));
}

Composition composition_of(
    Seeds seeds,
    int64_t kind,
    Constants constants,
    int64_t terms,
    at::IntArrayRef counts,
    bool collapsed,
    Weights weights) {
  TORCH_CHECK(
      0 <= kind && kind <= static_cast<int64_t>(LocalKind::kElu), "compose_jet: expected a kind of series, got ", kind);
  TORCH_CHECK(constants.size() == 6, "compose_jet: expected six constants, got ", constants.size());
  return {
      {static_cast<LocalKind>(kind),
       seeds.size() > 1,
       {constants[0], constants[1], constants[2], constants[3]},
       constants[4],
       constants[5]},
      seeds.vec(),
      terms,
      counts.vec(),
      collapsed,
      weights.value_or(at::Tensor())};
}

void check_compose_jet(const at::Tensor& x, const Composition& composition, int64_t slope_orders) {
  TORCH_CHECK(
      x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble,
      "compose_jet: expected x of float or double, got ",
      x.scalar_type());
  const std::vector<int64_t>& counts = composition.counts;
  const bool is_descending = std::is_sorted(counts.rbegin(), counts.rend());
  TORCH_CHECK(
      !counts.empty() && is_descending && counts.back() > 0 &&
          (!composition.collapsed || (counts.size() > 1 && counts.front() == counts.back())),
      "compose_jet: expected directions of every order, no more than of the one below, and of a collapsed jet the same, "
      "of two orders at least, got ",
      counts);
  TORCH_CHECK(
      0 < composition.terms && composition.terms <= composition.order(),
      "compose_jet: expected an x of 1 to ",
      composition.order(),
      " orders, got ",
      composition.terms);
  TORCH_CHECK(
      x.dim() > 0 && x.size(0) == composition.rows(composition.terms),
      "compose_jet: expected x of ",
      composition.rows(composition.terms),
      " rows, got shape ",
      x.sizes());
  check_seeds(x, composition, slope_orders);
  const at::Tensor& weights = composition.weights;
  TORCH_CHECK(
      !weights.defined() ||
          (weights.sizes() == at::IntArrayRef({counts.front()}) && weights.scalar_type() == x.scalar_type() &&
           weights.device() == x.device()),
      "compose_jet: expected weights of ",
      counts.front(),
      " directions, of x's dtype and device, got shape ",
      weights.defined() ? weights.sizes() : at::IntArrayRef());
}

void check_compose_jet_backward(const at::Tensor& by_rows, const at::Tensor& x, const Composition& composition) {
  check_compose_jet(x, composition, /*slope_orders=*/1);
  const bool has_rows = by_rows.dim() > 0 && by_rows.size(0) == composition.rows(composition.order());
  TORCH_CHECK(
      has_rows && by_rows.sizes().slice(1) == x.sizes().slice(1) && by_rows.scalar_type() == x.scalar_type() &&
          by_rows.device() == x.device(),
      "compose_jet_backward: expected a cotangent of ",
      composition.rows(composition.order()),
      " rows of x's shape ",
      x.sizes().slice(1),
      ", dtype and device, got shape ",
      by_rows.sizes());
}

std::vector<int64_t> shape_of_jet(const at::Tensor& x, const Composition& composition) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape[0] = composition.rows(composition.order());
  return shape;
}

int64_t find_period(const at::Tensor& rows) {
  int64_t period = 1;
  int64_t dim = rows.dim() - 1;
  for (; dim > 0 && rows.stride(dim) == period; --dim) {
    period *= rows.size(dim);
  }
  for (; dim > 0; --dim) {
    if (rows.stride(dim) != 0 && rows.size(dim) != 1) {
      return 0;
    }
  }
  return rows.stride(0) == period ? period : 0;
}

} // namespace highgrad::ops
