#include "engine/probe.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <optional>
#include <utility>

#include "engine/batched_vjp.h"
#include "engine/failure.h"
#include "engine/without_pattern.h"
#include "ops/joined_shape.h"

namespace highgrad::engine {
namespace {

enum class Marks { kNan, kValues };

// For `count` places.
at::Tensor marks(Marks kind, int64_t count, const at::TensorOptions& options) {
  return kind == Marks::kNan ? at::full({count}, std::numeric_limits<double>::quiet_NaN(), options)
                             : numbers_without_pattern(count, options);
}

// Cotangents of probes [first, first + count): marks in the rows of each one's group, zero elsewhere.
std::vector<at::Tensor> seeds_of(
    const LinearMap& map,
    Marks kind,
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
      seeds.view(-1).index_copy_(0, index.to(root.device()), marks(kind, index.numel(), root.options()));
      all.push_back(std::move(seeds));
    }
    first_row += rows;
  }
  return all;
}

class Prober {
 public:
  Prober(const LinearMap& map, Marks kind, int64_t chunk_size, bool may_loop)
      : map_(map), kind_(kind), roots_(map.root_edges()), chunk_size_(chunk_size), may_loop_(may_loop) {
    const at::NoGradGuard no_grad;
    program_ = compile(map);
    if (!program_.has_value() && map.distrust == tape::Distrust::kValues) {
      chunk_size_ = 1;
    }
  }

  bool sweep(const std::vector<int64_t>& group_of_row, structure::HitBits& hits) {
    const int64_t num_groups = *std::max_element(group_of_row.begin(), group_of_row.end()) + 1;
    for (int64_t first = 0; first < num_groups;) {
      const int64_t count = std::min(chunk_size_, num_groups - first);
      std::vector<at::Tensor> seeds = seeds_of(map_, kind_, group_of_row, first, count);
      const auto rows = products(seeds, count);
      if (!rows.has_value()) {
        if (count == 1 || !may_loop_) {
          return false;
        }
        chunk_size_ = 1;
        continue;
      }
      mark(*rows, first, count, hits);
      first += count;
    }
    return true;
  }

 private:
  std::optional<std::vector<at::Tensor>> products(std::vector<at::Tensor>& seeds, int64_t count) const {
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

  void mark(const std::vector<at::Tensor>& rows, int64_t first, int64_t count, structure::HitBits& hits) const {
    int64_t first_column = 0;
    for (const auto j : c10::irange(map_.edges.size())) {
      const int64_t columns = map_.columns[j];
      if (rows[j].defined()) {
        const at::Tensor hits_of_row = kind_ == Marks::kNan ? at::isnan(rows[j]) : at::ne(rows[j], 0);
        const at::Tensor is_hit = hits_of_row.reshape({count, columns}).contiguous().cpu();
        const bool* data = is_hit.const_data_ptr<bool>();
        for (const auto k : c10::irange(count)) {
          hits.set(first + k, first_column, data + k * columns, columns);
        }
      }
      first_column += columns;
    }
  }

  const LinearMap& map_;
  Marks kind_;
  torch::autograd::edge_list roots_;
  std::optional<vjp::Program> program_;
  int64_t chunk_size_;
  bool may_loop_;
};

structure::Probe probe_of(Prober prober) {
  return [prober = std::move(prober)](const std::vector<int64_t>& group_of_row, structure::HitBits& hits) mutable {
    return prober.sweep(group_of_row, hits);
  };
}

} // namespace

structure::Probe make_probe(const LinearMap& map, int64_t chunk_size, bool may_loop) {
  return probe_of(Prober(map, Marks::kNan, chunk_size, may_loop));
}

structure::Probe make_value_probe(const LinearMap& map, int64_t chunk_size) {
  return probe_of(Prober(map, Marks::kValues, chunk_size, /*may_loop=*/true));
}

} // namespace highgrad::engine
