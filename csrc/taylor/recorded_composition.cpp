#include "taylor/recorded_composition.h"

#include <ATen/ExpandUtils.h>
#include <ATen/TensorOperators.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "taylor/polynomials.h"
#include "taylor/recorded_rows.h"
#include "taylor/sum.h"
#include "torch_compat.h"

namespace highgrad::taylor {
namespace {

using torch::autograd::Edge;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// From c_1, c_2, ... to those of the derivative but its value: (m + 1) c_(m+1).
at::Tensor derivative_of_series(const at::Tensor& series) {
  const int64_t orders = series.size(0) - 1;
  c10::DimVector shape(series.dim(), 1);
  shape[0] = orders;
  return series.narrow(0, 1, orders) * at::arange(2, orders + 2, series.options()).view(shape);
}

// reverse_composition in torch's operations. series: c_1, ..., c_(n+1), [n + 1, *shape].
class Reverse {
 public:
  Reverse(const Frame& frame, const Jet& x, const at::Tensor& series, const at::Tensor& by_rows)
      : frame_(frame), own_(frame), x_(x), by_x_(frame.order + 1) {
    own_.collapsed = false;
    const int64_t order = frame.order;
    own_terms_ = frame.collapsed && x.terms == order ? order - 1 : x.terms;
    Series h(at::Tensor{});
    for (const auto j : c10::irange<int64_t>(1, own_terms_ + 1)) {
      h.push(coefficient(frame, x, j));
    }
    const std::vector<at::Tensor> slopes = derivative_of_series(series).unbind(0);
    curvature_ = slopes.front();
    w_ = compose(own_, h, slopes).with_value(series.select(0, 0));
    for (const auto k : c10::irange<int64_t>(1, order + 1)) {
      by_y_.push_back(by_rows.narrow(0, frame.rows(k - 1), frame.rows_of_order(k)));
    }
  }

  ComposedCotangents run() {
    for (const auto k : c10::irange<int64_t>(1, frame_.order + 1)) {
      const at::Tensor by_y = by_y_[k - 1];
      const bool is_sum = frame_.collapsed && k == frame_.order;
      const at::Tensor cotangent = is_sum ? of_directions(frame_, by_y) : by_y;
      if (w_[k].defined()) {
        add(0, (cotangent * w_[k]).sum(0));
      }
      for (const auto j : c10::irange<int64_t>(1, std::min(k, own_terms_) + 1)) {
        if (k == j || w_[k - j].defined()) {
          add(j, correlate(j, k - j, cotangent));
        }
      }
      if (is_sum && x_.terms == k) {
        add(k, by_y * w_[0]);
        add(0, (by_y * coefficient(frame_, x_, k) * curvature_).sum(0));
      }
    }
    std::vector<at::Tensor> rows;
    for (const auto j : c10::irange<int64_t>(1, x_.terms + 1)) {
      rows.push_back(by_x_[j].defined() ? by_x_[j] : zeros_of(j));
    }
    return {at::cat(rows), by_x_[0]};
  }

 private:
  at::Tensor correlate(int64_t j, int64_t l, const at::Tensor& cotangent) const {
    if (l == 0) {
      return cotangent * w_[0];
    }
    return frame_.is_multivariate() ? correlate_polynomials(*frame_.monomials, j, l, cotangent, w_[l])
                                    : cotangent * frame_.reaching(j + l, w_[l]);
  }

  at::Tensor zeros_of(int64_t j) const {
    c10::DimVector shape(by_y_.front().sizes());
    shape[0] = frame_.rows_of_order(j);
    return at::zeros(shape, by_y_.front().options());
  }

  // To the cotangent of x_j.
  void add(int64_t j, at::Tensor term) {
    by_x_[j] = plus(by_x_[j], j > 0 ? with_all_rows(frame_, j, std::move(term)) : term);
  }

  const Frame& frame_;
  Frame own_; // without a sum over directions
  const Jet& x_;
  int64_t own_terms_;
  Series w_;
  at::Tensor curvature_;
  std::vector<at::Tensor> by_y_, by_x_;
};

// Whether the function's own series, which all directions share, and the composition are less work than its series
// along all directions: where these are several.
bool pays(const Frame& frame, const PointwiseFunction& function, bool recorded) {
  return recorded || function.local || frame.rows(frame.order) > frame.order;
}

// The jet of a contracted frame, unrecorded: all orders but the highest by element, and that as products with those of
// phi'(x).
Jet compose_contracted(const Frame& frame, const Jet& x, const at::Tensor& anchor, const PointwiseFunction& function) {
  const Frame lower = frame.lowered();
  const int64_t terms = std::min(x.terms, lower.order);
  const Jet jet{x.rows.narrow(0, 0, lower.rows(terms)), terms};
  const at::Tensor series = expand_at(function, anchor, frame.order);
  const auto composed = [&](const at::Tensor& given, at::Tensor value) {
    const LocalSeries local{LocalKind::kGiven, {given}};
    return Series::of_rows(lower, compose_by_element(lower, jet, local, anchor.sizes()), std::move(value));
  };
  Series y = composed(series, anchor);
  const Series slope = composed(derivative_of_series(series), series.select(0, 0));
  push_integral(frame, y, frame.order, Series(frame, x, anchor), slope);
  return y.jet(frame);
}

} // namespace

void ComposeSeriesBackward::release_variables() {
  const std::lock_guard<std::mutex> lock(mutex_);
  x.reset_data();
  anchor.reset_data();
  for (SavedVariable& seed : seeds) {
    seed.reset_data();
  }
}

bool ComposeSeriesBackward::goes_by_element(const at::Tensor& by_rows) const {
  return !at::GradMode::is_enabled() && by_rows.scalar_type() == frame.dtype && !at::isTensorSubclassLike(by_rows);
}

ComposedCotangents ComposeSeriesBackward::reverse(const at::Tensor& by_rows, at::IntArrayRef shape) {
  Jet jet{x.unpack(), terms};
  if (goes_by_element(by_rows) && !at::isTensorSubclassLike(jet.rows)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    if (!repeats_as(jet.rows, shape)) {
      jet.rows = jet.rows.contiguous();
    }
    if (function->local) {
      anchor.unpack(); // raises where it was written to: seeds may share its memory
    }
    LocalSeries values = local;
    for (const SavedVariable& seed : seeds) {
      values.seeds.push_back(seed.unpack());
    }
    return reverse_composition(frame, jet, values, by_rows);
  }
  const at::Tensor series = record_local_series(function, anchor.unpack(), next_edge(1), frame.order + 1);
  return Reverse(frame, jet, series, by_rows).run();
}

variable_list ComposeSeriesBackward::apply(variable_list&& cotangents) {
  const at::Tensor& by_rows = cotangents[0];
  if (!by_rows.defined()) {
    return variable_list(num_outputs());
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  ComposedCotangents found = reverse(by_rows, x_shape);
  if (found.x.sizes() != at::IntArrayRef(x_shape)) {
    found.x = at::sum_to(found.x, x_shape);
  }
  return {found.x, found.x0};
}

at::Tensor ComposeSeriesBackward::expanded_cotangent(const at::Tensor& by_rows) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return reverse(by_rows, x.unpack().sizes()).x;
}

ComposedCotangents ComposeSeriesBackward::reverse_batch(const at::Tensor& cotangents) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (goes_by_element(cotangents)) {
    std::vector<at::Tensor> by_x, by_x0;
    for (const at::Tensor& by_rows : cotangents.unbind(0)) {
      ComposedCotangents found = reverse(by_rows, x_shape);
      by_x.push_back(std::move(found.x));
      by_x0.push_back(std::move(found.x0));
    }
    return {at::stack(by_x), at::stack(by_x0)};
  }
  // The batch is one more dimension of every element.
  const Jet jet{x.unpack().unsqueeze(1), terms};
  const at::Tensor series = record_local_series(function, anchor.unpack(), next_edge(1), frame.order + 1);
  const at::Tensor by_rows = cotangents.transpose(0, 1);
  ComposedCotangents found = Reverse(frame, jet, series.unsqueeze(1), by_rows).run();
  return {found.x.transpose(0, 1), found.x0};
}

void LocalSeriesBackward::release_variables() {
  const std::lock_guard<std::mutex> lock(mutex_);
  anchor.reset_data();
}

variable_list LocalSeriesBackward::apply(variable_list&& cotangents) {
  if (!cotangents[0].defined()) {
    return {at::Tensor()};
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  const at::Tensor series = record_local_series(function, anchor.unpack(), next_edge(0), orders + 1);
  return {(cotangents[0] * derivative_of_series(series)).sum(0)};
}

at::Tensor record_local_series(
    const std::shared_ptr<const PointwiseFunction>& function,
    const at::Tensor& anchor,
    const Edge& edge,
    int64_t orders) {
  at::Tensor series = expand_at(*function, anchor, orders);
  if (!at::GradMode::is_enabled() || !edge.is_valid()) {
    return series;
  }
  series = series.is_contiguous() ? series : series.contiguous();
  auto node = make_node<LocalSeriesBackward>();
  node->add_next_edge(edge);
  node->function = function;
  node->anchor = SavedVariable(anchor, /*is_output=*/false);
  node->orders = orders;
  torch::autograd::set_history(series, node);
  return series;
}

Jet apply_function(
    const Call& call,
    const at::Tensor& anchor,
    const std::shared_ptr<const PointwiseFunction>& function) {
  const std::optional<Jet> composed =
      compose_function(call.frame, call.inputs[0], anchor, call.node.next_edge(0), function);
  return composed.has_value() ? *composed : function->series(call.frame, call.series(0, anchor)).jet(call.frame);
}

std::optional<Jet> compose_function(
    const Frame& frame,
    const Jet& input,
    const at::Tensor& anchor,
    const Edge& edge,
    const std::shared_ptr<const PointwiseFunction>& function) {
  if (input.terms == 0 || !input.products.empty()) {
    return std::nullopt;
  }
  const int64_t terms = std::min(input.terms, frame.order);
  // Of all rows, the edge to the tensor that they expand is looked for.
  const Jet jet{terms == input.terms ? input.rows : input.rows.narrow(0, 0, frame.rows(terms)), terms};
  const bool recorded = at::GradMode::is_enabled() && (jet.rows.requires_grad() || edge.is_valid());
  if (!pays(frame, *function, recorded) || has_tangent(jet.rows) || has_tangent(anchor) ||
      !is_composed_by_element(frame, jet.rows, anchor) || (recorded && frame.contracted)) {
    return std::nullopt;
  }
  if (frame.contracted) {
    return compose_contracted(frame, jet, anchor, *function);
  }
  LocalSeries local = local_series(*function, anchor, frame.order + (recorded ? 1 : 0));
  at::Tensor rows;
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::NoGradGuard not_recorded;
    rows = compose_by_element(frame, jet, local, anchor.sizes());
  }
  if (recorded) {
    auto node = make_node<ComposeSeriesBackward>();
    auto [rows_edge, shape] = edge_of_rows(jet.rows);
    node->add_next_edge(std::move(rows_edge));
    node->x_shape = std::move(shape);
    node->add_next_edge(edge);
    node->frame = frame;
    node->function = function;
    node->terms = jet.terms;
    node->x = SavedVariable(jet.rows, /*is_output=*/false);
    node->anchor = SavedVariable(anchor, /*is_output=*/false);
    for (const at::Tensor& seed : local.seeds) {
      node->seeds.emplace_back(seed, /*is_output=*/false);
    }
    local.seeds.clear();
    node->local = std::move(local);
    torch::autograd::set_history(rows, node);
  }
  return Jet{rows, frame.order};
}

} // namespace highgrad::taylor
