#include "engine/run_plan.h"

#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/mm.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/endpoint.h"
#include "engine/forward_mode.h"
#include "engine/known_head.h"
#include "engine/known_weight.h"
#include "engine/recorded_gradients.h"
#include "engine/sweeps.h"
#include "ops/joined_shape.h"

namespace highgrad::engine {
namespace {

using plan::Mode;
using plan::Segment;
using torch::autograd::edge_list;

// From `root`, or from below what is known.
RowSweeps sweeps_over_all_rows(
    const Endpoint& root,
    const tape::Tape& tape,
    const JacobianOptions& options,
    bool keep_graph) {
  const std::optional<KnownHead> head = find_known_head(root, tape, options.create_graph);
  return {
      head.has_value() ? head->below : root,
      root.like.numel(),
      head.has_value() ? rows_of(head->rows) : basis_of(root.like),
      tape,
      options,
      keep_graph};
}

// The Jacobians of one segment by its ends, as matrices [segment.rows, elements of the end], or undefined for zeros;
// none if forward mode does not serve.
std::optional<std::vector<at::Tensor>> segment_matrices(
    const Segment& segment,
    const PlannedOutput& planned,
    const std::vector<Endpoint>& ends,
    const JacobianOptions& options,
    Progress& progress) {
  const Endpoint root = endpoint_of(planned.problem.tape, segment.root);
  edge_list edges;
  for (const Endpoint& end : ends) {
    edges.push_back(end.edge);
  }
  std::vector<at::Tensor> matrices;
  if (segment.mode == Mode::kForward) {
    auto columns = compute_columns(root, edges, options, progress);
    if (!columns.has_value()) {
      return std::nullopt;
    }
    for (const auto j : c10::irange(ends.size())) {
      const at::Tensor& of_end = (*columns)[j];
      matrices.push_back(of_end.defined() ? of_end.view({ends[j].like.numel(), segment.rows}).t() : at::Tensor());
    }
    return matrices;
  }
  std::vector<JacobianBlock> blocks;
  for (const Endpoint& end : ends) {
    blocks.emplace_back(root.like, end.like, options.create_graph, std::nullopt);
  }
  const tape::Tape tape = tape::read_tape(root.edge, edges);
  sweeps_over_all_rows(root, tape, options, /*keep_graph=*/true)
      .run(
          edges,
          [&](int64_t count, std::vector<at::Tensor> rows) {
            for (const auto j : c10::irange(blocks.size())) {
              blocks[j].append(count, std::move(rows[j]));
            }
          },
          progress);
  for (const auto j : c10::irange(ends.size())) {
    matrices.push_back(
        blocks[j].is_used() ? blocks[j].finish().view({segment.rows, ends[j].like.numel()}) : at::Tensor());
  }
  return matrices;
}

} // namespace

bool run_recorded_row(
    const PlannedOutput& planned,
    const JacobianOptions& options,
    bool keep_graph,
    Progress& progress) {
  const OutputProblem& problem = planned.problem;
  if (!options.create_graph || problem.output.numel() != 1 || !is_recorded_right(problem.tape)) {
    return false;
  }
  std::vector<at::Tensor> row = recorded_gradients(problem, keep_graph, progress);
  for (const auto j : c10::irange(row.size())) {
    planned.blocks[j]->append_only_row(std::move(row[j]));
  }
  return true;
}

void run_rows(const PlannedOutput& planned, const JacobianOptions& options, bool keep_graph, Progress& progress) {
  if (run_recorded_row(planned, options, keep_graph, progress)) {
    return;
  }
  const OutputProblem& problem = planned.problem;
  std::vector<std::optional<KnownWeight>> weights;
  edge_list edges;
  for (const auto j : c10::irange(problem.edges.size())) {
    weights.push_back(find_known_weight(problem.tape, problem.slots[j], options.create_graph));
    edges.push_back(weights[j].has_value() ? weights[j]->layer : problem.edges[j]);
  }
  RowSweeps sweeps = sweeps_over_all_rows(endpoint_of(problem.output), problem.tape, options, keep_graph);
  sweeps.run(
      edges,
      [&](int64_t count, std::vector<at::Tensor> rows) {
        for (const auto j : c10::irange(planned.blocks.size())) {
          at::Tensor own = std::move(rows[j]);
          planned.blocks[j]->append(count, weights[j].has_value() ? weights[j]->rows(own) : std::move(own));
        }
      },
      progress);
}

bool run_plan(
    const plan::OutputPlan& plan,
    const PlannedOutput& planned,
    const JacobianOptions& options,
    bool keep_graph,
    Progress& progress) {
  if (plan.is_plain_reverse()) {
    run_rows(planned, options, keep_graph, progress);
    return true;
  }
  at::Tensor above; // the product of all segments but the last
  std::vector<at::Tensor> matrices;
  for (const auto k : c10::irange(plan.segments.size())) {
    const bool is_last = k + 1 == plan.segments.size();
    std::vector<Endpoint> ends;
    if (is_last) {
      for (const auto j : c10::irange(planned.blocks.size())) {
        ends.push_back({planned.problem.edges[j], planned.blocks[j]->input()});
      }
    } else {
      ends.push_back(endpoint_of(planned.problem.tape, plan.segments[k + 1].root));
    }
    auto factors = segment_matrices(plan.segments[k], planned, ends, options, progress);
    if (!factors.has_value()) {
      return false;
    }
    for (at::Tensor& factor : *factors) {
      if (factor.defined() && above.defined()) {
        factor = above.mm(factor);
      }
    }
    if (is_last) {
      matrices = std::move(*factors);
    } else if (!factors->front().defined()) {
      matrices.resize(ends.size());
      break;
    } else {
      above = std::move(factors->front());
    }
  }
  for (const at::Tensor& matrix : matrices) {
    if (matrix.defined() && !is_finite(matrix)) {
      return false;
    }
  }
  for (const auto j : c10::irange(planned.blocks.size())) {
    if (matrices[j].defined()) {
      JacobianBlock& block = *planned.blocks[j];
      const auto shape = ops::joined_shape(planned.problem.output.numel(), block.input().sizes());
      // Handed over with its memory, so that the block need not copy it.
      at::Tensor rows = at::_unsafe_view(matrices[j].contiguous(), shape);
      matrices[j].reset();
      block.append(planned.problem.output.numel(), std::move(rows));
    }
  }
  return true;
}

} // namespace highgrad::engine
