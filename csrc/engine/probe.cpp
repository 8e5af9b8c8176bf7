#include "engine/probe.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <exception>
#include <limits>

#include "engine/batched_vjp.h"
#include "engine/failure.h"
#include "ops/joined_shape.h"

namespace highgrad::engine {
namespace {

// Cotangents of probes [first, first + count): NaN in the rows of each one's group, zero elsewhere.
at::Tensor nan_seeds(const at::Tensor& output, const std::vector<int64_t>& group_of_row, int64_t first, int64_t count) {
  const auto rows = static_cast<int64_t>(group_of_row.size());
  std::vector<int64_t> places;
  for (const auto row : c10::irange(rows)) {
    if (group_of_row[row] >= first && group_of_row[row] < first + count) {
      places.push_back((group_of_row[row] - first) * rows + row);
    }
  }
  at::Tensor seeds = at::zeros(ops::joined_shape(count, output.sizes()), output.options());
  const at::Tensor index = at::from_blob(places.data(), {static_cast<int64_t>(places.size())}, at::kLong);
  seeds.view(-1).index_fill_(0, index.to(output.device()), std::numeric_limits<double>::quiet_NaN());
  return seeds;
}

bool sweep(
    const at::Tensor& output,
    const std::vector<at::Tensor>& inputs,
    const torch::autograd::edge_list& edges,
    int64_t chunk_size,
    const std::vector<int64_t>& group_of_row,
    structure::HitBits& hits) {
  const int64_t num_groups = *std::max_element(group_of_row.begin(), group_of_row.end()) + 1;
  for (int64_t first = 0; first < num_groups; first += chunk_size) {
    const int64_t count = std::min(chunk_size, num_groups - first);
    const auto rows = batched_vjp(
        {torch::autograd::impl::gradient_edge(output)}, {nan_seeds(output, group_of_row, first, count)}, edges, {});
    int64_t first_column = 0;
    for (const auto j : c10::irange(inputs.size())) {
      const int64_t columns = inputs[j].numel();
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
  return true;
}

} // namespace

structure::Probe make_probe(
    const at::Tensor& output,
    const std::vector<at::Tensor>& inputs,
    const torch::autograd::edge_list& edges,
    int64_t chunk_size) {
  return [&output, &inputs, &edges, chunk_size](const std::vector<int64_t>& group_of_row, structure::HitBits& hits) {
    try {
      return sweep(output, inputs, edges, chunk_size, group_of_row, hits);
    } catch (...) {
      const std::exception_ptr exception = std::current_exception();
      if (judge_failure(exception) == Failure::kInterrupt) {
        std::rethrow_exception(exception);
      }
      return false;
    }
  };
}

} // namespace highgrad::engine
