#include "engine/probe.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <utility>

#include "engine/batched_vjp.h"
#include "engine/failure.h"
#include "ops/joined_shape.h"
#include "tape/streams.h"

namespace highgrad::engine {
namespace {

// Cotangents of probes [first, first + count): NaN in the rows of each one's group, zero elsewhere.
std::vector<at::Tensor> seeds_of(
    const LinearMap& map,
    const std::vector<int64_t>& group_of_row,
    int64_t first,
    int64_t count) {
  std::vector<at::Tensor> all;
  int64_t first_row = 0;
  for (const auto k : c10::irange(map.roots.size())) {
    const at::Tensor& root = map.roots[k];
    const int64_t rows = map.rows[k];
    if (root.defined()) {
      std::vector<int64_t> places;
      for (const auto row : c10::irange(rows)) {
        const int64_t group = group_of_row[first_row + row] - first;
        if (group >= 0 && group < count) {
          places.push_back(group * rows + row);
        }
      }
      at::Tensor seeds = at::zeros(ops::joined_shape(count, root.sizes()), root.options());
      const at::Tensor index = at::from_blob(places.data(), {static_cast<int64_t>(places.size())}, at::kLong);
      const at::Tensor marks = at::full({index.numel()}, std::numeric_limits<double>::quiet_NaN(), root.options());
      seeds.view(-1).index_copy_(0, tape::copied_to(index, root.device()), marks);
      all.push_back(std::move(seeds));
    }
    first_row += rows;
  }
  return all;
}

void mark(
    const LinearMap& map,
    const std::vector<at::Tensor>& rows,
    int64_t first,
    int64_t count,
    structure::HitBits& hits) {
  int64_t first_column = 0;
  for (const auto j : c10::irange(map.edges.size())) {
    const int64_t columns = map.columns[j];
    if (rows[j].defined()) {
      const at::Tensor is_hit = at::isnan(rows[j]).reshape({count, columns}).contiguous().cpu();
      const bool* data = is_hit.const_data_ptr<bool>();
      for (const auto k : c10::irange(count)) {
        hits.set(first + k, first_column, data + k * columns, columns);
      }
    }
    first_column += columns;
  }
}

} // namespace

ProbeSweeps::ProbeSweeps(const LinearMap& map, int64_t chunk_size, bool may_loop)
    : map_(map), roots_(map.root_edges()), chunk_size_(chunk_size), may_loop_(may_loop) {
  const at::NoGradGuard no_grad;
  program_ = compile(map);
  if (!program_.has_value() && map.distrust == tape::Distrust::kValues) {
    chunk_size_ = 1;
  }
}

bool ProbeSweeps::run(int64_t total, Seeds seeds, OnRows on_rows) {
  for (int64_t first = 0; first < total;) {
    const int64_t count = std::min(chunk_size_, total - first);
    const auto rows = products(seeds(first, count), count);
    if (!rows.has_value()) {
      if (count == 1 || !may_loop_) {
        return false;
      }
      chunk_size_ = 1;
      continue;
    }
    on_rows(*rows, first, count);
    first += count;
  }
  return true;
}

std::optional<std::vector<at::Tensor>> ProbeSweeps::products(std::vector<at::Tensor> seeds, int64_t count) const {
  try {
    if (program_.has_value()) {
      const at::NoGradGuard no_grad;
      return program_->run(std::move(seeds[0]));
    }
    if (count > 1) {
      return batched_vjp(roots_, seeds, map_.edges, {});
    }
    for (at::Tensor& seed : seeds) {
      seed = seed.squeeze(0);
    }
    return single_vjp(roots_, seeds, map_.edges, {});
  } catch (...) {
    const std::exception_ptr exception = std::current_exception();
    if (judge_failure(exception) == Failure::kInterrupt) {
      std::rethrow_exception(exception);
    }
    return std::nullopt;
  }
}

structure::Probe make_probe(const LinearMap& map, int64_t chunk_size, bool may_loop) {
  return [&map, sweeps = ProbeSweeps(map, chunk_size, may_loop)](
             const std::vector<int64_t>& group_of_row, structure::HitBits& hits) mutable {
    const int64_t num_groups = *std::max_element(group_of_row.begin(), group_of_row.end()) + 1;
    return sweeps.run(
        num_groups,
        [&](int64_t first, int64_t count) { return seeds_of(map, group_of_row, first, count); },
        [&](const auto& rows, int64_t first, int64_t count) { mark(map, rows, first, count, hits); });
  };
}

} // namespace highgrad::engine
