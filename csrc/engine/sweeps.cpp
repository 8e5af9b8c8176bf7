#include "engine/sweeps.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>
#include <torch/csrc/autograd/anomaly_mode.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "engine/failure.h"
#include "engine/recorded_gradients.h"
#include "ops/joined_shape.h"
#include "ops/seed_basis.h"
#include "plan/chunking.h"

namespace highgrad::engine {

using torch::autograd::edge_list;

at::Tensor like_one_sample(const at::Tensor& tensor, int64_t batch_dims) {
  return batch_dims == 0 ? tensor : at::empty(tensor.sizes().slice(batch_dims), tensor.options());
}

Seeds basis_of(const at::Tensor& like, int64_t batch_dims) {
  return
      [rest = like_one_sample(like, batch_dims), batch_dims, shape = like.sizes().vec()](int64_t first, int64_t count) {
        at::Tensor basis = ops::seed_basis(rest, count, first);
        if (batch_dims > 0) {
          for (int64_t dim = 0; dim < batch_dims; ++dim) {
            basis = basis.unsqueeze(1);
          }
          basis = basis.expand(ops::joined_shape(count, shape));
        }
        return std::vector{std::move(basis)};
      };
}

Seeds rows_of(at::Tensor matrix) {
  return [matrix = std::move(matrix)](int64_t first, int64_t count) {
    // Backward formulas may look at the storage: it is no larger than the rows.
    return std::vector{count == matrix.size(0) ? matrix : matrix.narrow(0, first, count).clone()};
  };
}

RowSweeps::RowSweeps(const LinearMap& map, int64_t num_rows, Seeds seeds, const JacobianOptions& options)
    : tape_(map.tape),
      distrust_(map.distrust),
      roots_(map.root_edges()),
      num_rows_(num_rows),
      seeds_(std::move(seeds)),
      options_(options),
      sweep_{/*keep_graph=*/true, options.create_graph} {
  choose_chunk_size(map.peak_bytes_per_row, map.options().device());
}

RowSweeps::RowSweeps(
    Endpoint root,
    int64_t num_rows,
    Seeds seeds,
    const tape::Tape& tape,
    const JacobianOptions& options,
    bool keep_graph)
    : tape_(&tape),
      distrust_(tape.distrust),
      roots_{std::move(root.edge)},
      num_rows_(num_rows),
      seeds_(std::move(seeds)),
      options_(options),
      sweep_{keep_graph, options.create_graph} {
  choose_chunk_size(tape.peak_bytes_per_row, root.like.device());
}

void RowSweeps::choose_chunk_size(int64_t bytes_per_row, at::Device device) {
  // Anomaly mode looks at values, which vmap does not let it.
  if (torch::autograd::AnomalyMode::is_enabled()) {
    chunk_size_ = 1;
  } else {
    chunk_size_ = options_.chunk_size.has_value() ? *options_.chunk_size
                                                  : plan::automatic_chunk_size(num_rows_, bytes_per_row, device);
  }
}

void RowSweeps::run(
    const edge_list& inputs,
    const std::function<void(int64_t, std::vector<at::Tensor>)>& take,
    Progress& progress) {
  compile(inputs);
  for (int64_t row = 0; row < num_rows_;) {
    const int64_t count = std::min(most_rows(), num_rows_ - row);
    std::vector<at::Tensor> rows;
    if (count == 1 && !program_.has_value()) {
      std::vector<at::Tensor> seeds = seeds_(row, 1);
      for (at::Tensor& seed : seeds) {
        seed = seed.squeeze(0);
      }
      rows = single_vjp(roots_, seeds, inputs, sweep_);
    } else if (!try_batched(row, count, inputs, rows)) {
      continue;
    }
    take(count, std::move(rows));
    row += count;
    progress.add(count);
  }
  warn_of_loops();
}

// Without engine and vmap, where that can be; a loop that the user asks for is torch's own. So is a single row that is
// recorded: torch's own Nodes have the shorter backward, if it can be differentiated again.
void RowSweeps::compile(const edge_list& inputs) {
  const bool is_recorded_row = sweep_.create_graph && num_rows_ == 1;
  const bool is_better_alone = !is_recorded_row || (tape_ != nullptr && !is_recorded_right(*tape_));
  if (sweep_.keep_graph && options_.chunk_size != 1 && roots_.size() == 1 && is_better_alone) {
    program_ = tape_ != nullptr && tape::is_tape_of(*tape_, roots_[0], inputs)
        ? vjp::Program::compile(*tape_, num_rows_ == 1)
        : vjp::Program::compile(tape::read_tape(roots_[0], inputs), num_rows_ == 1);
  }
}

// Of the next sweep: one, if vmap is not to be trusted and the tape cannot be split.
int64_t RowSweeps::most_rows() const {
  const bool is_safe =
      program_.has_value() || tape_ != nullptr || !SplitTape::is_needed(distrust_, sweep_.create_graph);
  return is_safe ? chunk_size_ : 1;
}

std::vector<at::Tensor> RowSweeps::sweep(int64_t row, int64_t count, const edge_list& inputs) {
  if (program_.has_value()) {
    return program_->run(std::move(seeds_(row, count)[0]));
  }
  if (split_ == nullptr && SplitTape::is_needed(distrust_, sweep_.create_graph)) {
    split_ = std::make_unique<SplitTape>(*tape_, sweep_.create_graph);
  }
  std::vector<std::string> looped_ops;
  auto rows = batched_vjp(roots_, seeds_(row, count), inputs, sweep_, &looped_ops, split_.get());
  looped_ops_.insert(looped_ops.begin(), looped_ops.end());
  return rows;
}

// One batched sweep; if it fails, changes what may help and returns false.
bool RowSweeps::try_batched(int64_t row, int64_t count, const edge_list& inputs, std::vector<at::Tensor>& rows) {
  std::exception_ptr exception;
  try {
    rows = sweep(row, count, inputs);
    return true;
  } catch (...) {
    exception = std::current_exception();
  }
  switch (judge_failure(exception)) {
    case Failure::kInterrupt:
      std::rethrow_exception(exception);
    case Failure::kOutOfMemory:
      if (options_.chunk_size.has_value()) {
        throw_out_of_memory(count);
      }
      chunk_size_ = (count + 1) / 2;
      if (count == 1) {
        program_.reset();
      }
      return false;
    case Failure::kOther:
      if (program_.has_value()) {
        program_.reset();
      } else if (split_ == nullptr && tape_ != nullptr) {
        // A sweep of two rows tells as well which Node it is.
        split_ = std::make_unique<SplitTape>(*tape_, sweep_.create_graph);
        std::vector<at::Tensor> ignored;
        try_batched(row, 2, inputs, ignored);
      } else if (split_ == nullptr || !split_->loop_failed()) {
        fell_back_ = true;
        chunk_size_ = 1;
      }
      return false;
  }
  return false;
}

void RowSweeps::throw_out_of_memory(int64_t count) const {
  TORCH_CHECK_WITH(
      OutOfMemoryError,
      false,
      options_.caller,
      ": out of memory in a sweep of chunk_size=",
      count,
      " rows; a smaller chunk_size needs less, and chunk_size=None finds one that fits");
  __builtin_unreachable();
}

// Once the values are there, so that a graph on which the row loop fails as well raises that error alone.
void RowSweeps::warn_of_loops() const {
  const std::string nodes = split_ == nullptr ? "" : c10::Join(", ", split_->failed());
  if (fell_back_) {
    warn(
        options_,
        "torch.vmap cannot run " +
            (!nodes.empty()         ? nodes
                 : tape_ == nullptr ? "a Node"
                                    : "a hook on the graph") +
            "; the Jacobian is computed row by row, with the same values but slower");
  } else if (!nodes.empty()) {
    warn(options_, "torch.vmap cannot run " + nodes + ", which goes row by row, with the same values but slower");
  }
  if (!looped_ops_.empty()) {
    warn(options_, "torch.vmap has no batching rule for " + c10::Join(", ", looped_ops_) + " and loops over its rows");
  }
}

} // namespace highgrad::engine
