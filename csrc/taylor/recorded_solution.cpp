#include "taylor/recorded_solution.h"

#include <ATen/ExpandUtils.h>
#include <ATen/TensorOperators.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "tape/edges.h"
#include "taylor/recorded_rows.h"
#include "taylor/sum.h"
#include "torch_compat.h"

namespace highgrad::taylor {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// The reverse of solve_by_element in torch's operations, step by step as reverse_stretch has it.
class Reverse {
 public:
  Reverse(const Frame& frame, const Operands& operands, const Slope& slope, const at::Tensor& by_solution)
      : frame_(frame),
        slope_(slope),
        derives_slope_(!operands.w0.defined()),
        x_(frame.order + 1),
        y_(frame.order + 1),
        w_(frame.order + 1),
        by_x_(frame.order + 1),
        by_y_(frame.order + 1),
        by_w_(frame.order + 1) {
    y_[0] = operands.y0;
    w_[0] = derives_slope_ ? slope_of_value(slope, operands.y0) : operands.w0;
    for (const auto k : c10::irange<int64_t>(1, frame.order + 1)) {
      x_[k] = coefficient(frame, operands.x, k);
      by_y_[k] = by_solution.narrow(0, frame.rows(k - 1), frame.rows_of_order(k));
    }
  }

  Cotangents run() {
    const int64_t order = frame_.order;
    for (const auto k : c10::irange<int64_t>(1, order)) {
      y_[k] = integral(k, w_) / static_cast<double>(k);
      w_[k] = slope_.companion != 0 ? integral(k, y_) * (slope_.companion / static_cast<double>(k)) : slope_of(k);
    }
    for (int64_t k = order; k > 0; --k) {
      if (k < order && by_w_[k].defined()) {
        reverse_slope(k);
      }
      reverse_integral(k);
    }
    Cotangents result;
    result.y0 = by_y_[0];
    if (!derives_slope_) {
      result.w0 = by_w_[0];
    } else if (slope_.square == 0) {
      result.y0 = plus(result.y0, by_w_[0] * slope_.linear);
    } else {
      result.y0 = plus(result.y0, by_w_[0] * (y_[0] * (2 * slope_.square) + slope_.linear));
    }
    std::vector<at::Tensor> rows;
    for (const auto k : c10::irange<int64_t>(1, order + 1)) {
      if (x_[k].defined()) {
        rows.push_back(by_x_[k].defined() ? by_x_[k] : at::zeros_like(x_[k]));
      }
    }
    result.x = at::cat(rows);
    return result;
  }

 private:
  // The sum of j x_j b_(k-j).
  at::Tensor integral(int64_t k, const std::vector<at::Tensor>& b) const {
    at::Tensor sum;
    for (const auto j : c10::irange<int64_t>(1, k + 1)) {
      if (x_[j].defined()) {
        sum = plus(sum, reaching(k, x_, j) * reaching(k, b, k - j) * static_cast<double>(j));
      }
    }
    return sum;
  }

  at::Tensor slope_of(int64_t k) const {
    at::Tensor sum;
    for (int64_t j = 0; j <= k && slope_.square != 0; ++j) {
      sum = plus(sum, reaching(k, y_, j) * reaching(k, y_, k - j));
    }
    sum = sum.defined() ? sum * slope_.square : sum;
    return slope_.linear != 0 ? plus(sum, y_[k] * slope_.linear) : sum;
  }

  // Coefficient j in a product of order k: the value, for all directions, or the rows of directions that reach it.
  at::Tensor reaching(int64_t k, const std::vector<at::Tensor>& coefficients, int64_t j) const {
    return j == 0 ? coefficients[0] : frame_.reaching(k, coefficients[j]);
  }

  // To the cotangent of coefficient k.
  void add(std::vector<at::Tensor>& sums, int64_t k, at::Tensor term) const {
    if (k == 0) {
      term = term.sum(0);
    } else {
      term = with_all_rows(frame_, k, std::move(term));
    }
    sums[k] = plus(sums[k], term);
  }

  void reverse_slope(int64_t k) {
    const at::Tensor by_w = by_w_[k];
    if (slope_.companion != 0) {
      const at::Tensor scaled = by_w * (slope_.companion / static_cast<double>(k));
      reverse_product(k, k, scaled, y_, by_y_);
      return;
    }
    if (slope_.linear != 0) {
      add(by_y_, k, by_w * slope_.linear);
    }
    for (int64_t j = 0; j <= k && slope_.square != 0; ++j) {
      add(by_y_, j, by_w * reaching(k, y_, k - j) * (2 * slope_.square));
    }
  }

  void reverse_integral(int64_t k) {
    if (!frame_.collapsed || k < frame_.order) {
      reverse_product(k, k, by_y_[k] / static_cast<double>(k), w_, by_w_);
      return;
    }
    const at::Tensor by_sum = of_directions(frame_, by_y_[k] / static_cast<double>(k));
    reverse_product(k, k - 1, by_sum, w_, by_w_);
    if (x_[k].defined()) {
      add(by_x_, k, by_y_[k] * w_[0]);
      add(by_w_, 0, by_y_[k] * x_[k]);
    }
  }

  // Of the sum over j up to `last` of j x_j b_(k-j).
  void reverse_product(
      int64_t k,
      int64_t last,
      const at::Tensor& cotangent,
      const std::vector<at::Tensor>& b,
      std::vector<at::Tensor>& by_b) {
    for (const auto j : c10::irange<int64_t>(1, last + 1)) {
      if (x_[j].defined()) {
        const at::Tensor scaled = cotangent * static_cast<double>(j);
        add(by_x_, j, scaled * reaching(k, b, k - j));
        add(by_b, k - j, scaled * reaching(k, x_, j));
      }
    }
  }

  const Frame& frame_;
  const Slope& slope_;
  bool derives_slope_;
  std::vector<at::Tensor> x_, y_, w_, by_x_, by_y_, by_w_;
};

} // namespace

void SolveSeriesBackward::release_variables() {
  const std::lock_guard<std::mutex> lock(mutex_);
  x.reset_data();
  y0.reset_data();
  w0.reset_data();
}

variable_list SolveSeriesBackward::apply(variable_list&& cotangents) {
  const at::Tensor& by_solution = cotangents[0];
  if (!by_solution.defined()) {
    return variable_list(num_outputs());
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  Operands operands{{x.unpack(), terms}, y0.unpack(), w0.unpack()};
  const auto is_plain = [&](const at::Tensor& tensor) {
    return !tensor.defined() || (tensor.scalar_type() == frame.dtype && !at::isTensorSubclassLike(tensor));
  };
  Cotangents found;
  if (!at::GradMode::is_enabled() && is_plain(by_solution) && is_plain(operands.x.rows) && is_plain(operands.y0) &&
      is_plain(operands.w0)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    if (!repeats_as(operands.x.rows, x_shape)) {
      operands.x.rows = operands.x.rows.contiguous();
    }
    found = reverse_by_element(frame, operands, slope, by_solution);
  } else {
    found = Reverse(frame, operands, slope, by_solution).run();
  }
  if (found.x.sizes() != at::IntArrayRef(x_shape)) {
    found.x = at::sum_to(found.x, x_shape);
  }
  variable_list result{found.x, found.y0};
  if (num_outputs() > 2) {
    result.push_back(found.w0);
  }
  return result;
}

at::Tensor record_solution(
    const Frame& frame,
    const Series& x,
    const at::Tensor& y0,
    const at::Tensor& w0,
    const Slope& slope) {
  const at::Tensor rows = x.rows(frame);
  if (!rows.defined() || has_tangent(rows) || has_tangent(y0) || has_tangent(w0)) {
    return {};
  }
  const Jet jet{rows, std::min(x.terms(), frame.order)};
  at::Tensor solution;
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::NoGradGuard not_recorded;
    const Series series(frame, jet, y0);
    if (!is_solved_by_element(frame, series, y0, w0)) {
      return {};
    }
    solution = solve_by_element(frame, series, y0, w0, slope);
  }
  if (!torch::autograd::compute_requires_grad(rows, y0, w0)) {
    return solution;
  }
  auto node = make_node<SolveSeriesBackward>(frame, slope);
  auto [edge, shape] = edge_of_rows(rows);
  node->add_next_edge(std::move(edge));
  node->x_shape = std::move(shape);
  for (const at::Tensor& value : {y0, w0}) {
    if (value.defined()) {
      node->add_next_edge(tape::edge_of(value));
    }
  }
  node->terms = jet.terms;
  node->x = SavedVariable(rows, /*is_output=*/false);
  node->y0 = SavedVariable(y0, /*is_output=*/false);
  node->w0 = SavedVariable(w0, /*is_output=*/false);
  torch::autograd::set_history(solution, node);
  return solution;
}

} // namespace highgrad::taylor
