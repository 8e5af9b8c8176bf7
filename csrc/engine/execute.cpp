#include "engine/execute.h"

#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <set>
#include <utility>

#include "engine/batched_vjp.h"
#include "engine/check_arguments.h"
#include "engine/compressed.h"
#include "engine/double_backward_jvp.h"
#include "engine/failure.h"
#include "engine/jacobian_block.h"
#include "engine/retained_grads.h"
#include "engine/special_results.h"
#include "ops/seed_basis.h"
#include "plan/chunking.h"
#include "plan/mode.h"
#include "tape/tape.h"

namespace highgrad::engine {
namespace {

using tape::Tape;
using torch::autograd::Edge;
using torch::autograd::edge_list;

Edge edge_of(const at::Tensor& tensor) {
  return tensor.requires_grad() ? torch::autograd::impl::gradient_edge(tensor) : Edge();
}

edge_list edges_of(const std::vector<at::Tensor>& tensors) {
  edge_list edges;
  edges.reserve(tensors.size());
  for (const at::Tensor& tensor : tensors) {
    edges.push_back(edge_of(tensor));
  }
  return edges;
}

void release(const std::vector<Tape>& tapes) {
  for (const Tape& tape : tapes) {
    for (const tape::TapeNode& node : tape.nodes) {
      if (node.runs) {
        node.node->release_variables();
      }
    }
  }
}

std::vector<Tape> read_tapes(const std::vector<at::Tensor>& outputs, const edge_list& input_edges) {
  std::vector<Tape> tapes;
  tapes.reserve(outputs.size());
  for (const at::Tensor& output : outputs) {
    tapes.push_back(tape::read_tape(edge_of(output), input_edges));
  }
  return tapes;
}

// What strict=True demands of every pair, in torch's own words.
void check_dependence(bool depends, size_t output, size_t input, const JacobianOptions& options) {
  TORCH_CHECK(
      depends || !options.strict,
      options.caller,
      ": Output ",
      output,
      " of the user-provided function is independent of input ",
      input,
      ". This is not allowed in strict mode.");
}

// Raises what allow_unused=False and strict=True ask for, in torch's own words, and for an input that was changed in
// place since, which would look unused.
void check_paths(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const edge_list& input_edges,
    const std::vector<Tape>& tapes,
    const JacobianOptions& options) {
  for (const auto i : c10::irange(outputs.size())) {
    TORCH_CHECK(
        !options.strict || outputs[i].requires_grad(),
        options.caller,
        ": Output ",
        i,
        " of the user-provided function does not require gradients. The outputs must be computed in a differentiable "
        "manner from the input when running in strict mode.");
    TORCH_CHECK(
        options.allow_unused || outputs[i].requires_grad(),
        options.caller,
        ": element ",
        i,
        " of tensors does not require grad and does not have a grad_fn. Set allow_unused=True to get zeros.");
  }
  for (const auto j : c10::irange(inputs.size())) {
    bool used = false;
    for (const auto i : c10::irange(outputs.size())) {
      if (tapes[i].inputs[j].is_on_tape()) {
        used = true;
        continue;
      }
      TORCH_CHECK(
          inputs[j].is_leaf() || inputs[j].is_inference() || inputs[j]._version() == 0 ||
              !tape::reaches_earlier_version(edge_of(outputs[i]), input_edges[j], inputs[j]._version()),
          options.caller,
          ": expected wrt as f was computed from it, got one of shape ",
          inputs[j].sizes(),
          " that has been modified by an inplace operation since (it is at version ",
          inputs[j]._version(),
          "); keep a reference to its earlier value, or modify a clone");
      check_dependence(false, i, j, options);
    }
    TORCH_CHECK(
        used || options.allow_unused || outputs.empty(),
        options.caller,
        ": One of the differentiated Tensors appears to not have been used in the graph. Set allow_unused=True if this "
        "is the desired behavior.");
  }
}

// A UserWarning at the Python line that called, without the place in C++ that TORCH_WARN appends.
void warn(const JacobianOptions& options, const std::string& message) {
  c10::warn(c10::Warning(c10::UserWarning(), {nullptr, nullptr, 0}, options.caller + ": " + message, false));
}

// Passes done and to do, for the caller's progress function.
class Progress {
 public:
  Progress(const JacobianOptions& options, int64_t total) : options_(options), total_(total) {}

  void add(int64_t passes) {
    done_ += passes;
    options_.after_sweep(done_, total_);
  }

  // Other passes than expected are needed: `more` (or fewer, if negative).
  void expect(int64_t more) {
    total_ += more;
  }

 private:
  const JacobianOptions& options_;
  int64_t done_ = 0;
  int64_t total_;
};

// All rows of one output.
class OutputSweeps {
 public:
  OutputSweeps(const at::Tensor& output, const Tape& tape, const JacobianOptions& options, bool keep_graph)
      : output_(output), edge_(edge_of(output)), options_(options), sweep_{keep_graph, options.create_graph} {
    // Anomaly mode looks at values, which vmap does not let it.
    const bool distrusted =
        tape.distrust == tape::Distrust::kValues || (tape.distrust == tape::Distrust::kGraph && options.create_graph);
    if (distrusted || torch::autograd::AnomalyMode::is_enabled()) {
      chunk_size_ = 1;
    } else {
      chunk_size_ = options.chunk_size.has_value()
          ? *options.chunk_size
          : plan::automatic_chunk_size(output.numel(), tape.peak_bytes_per_row, output.device());
    }
  }

  // Fills blocks[j] with the rows of inputs[j].
  void run(const edge_list& inputs, const std::vector<JacobianBlock*>& blocks, Progress& progress) {
    const int64_t num_rows = output_.numel();
    for (int64_t row = 0; row < num_rows;) {
      const int64_t count = std::min(chunk_size_, num_rows - row);
      std::vector<at::Tensor> rows;
      if (count == 1) {
        rows = single_vjp({edge_}, {ops::seed_basis(output_, 1, row).squeeze(0)}, inputs, sweep_);
      } else if (!try_batched(row, count, inputs, rows)) {
        continue;
      }
      for (const auto j : c10::irange(blocks.size())) {
        blocks[j]->append(count, std::move(rows[j]));
      }
      row += count;
      progress.add(count);
    }
    warn_of_loops();
  }

 private:
  // One batched sweep; if it fails, changes chunk_size_ to what may work and returns false.
  bool try_batched(int64_t row, int64_t count, const edge_list& inputs, std::vector<at::Tensor>& rows) {
    std::exception_ptr exception;
    try {
      rows = batched_vjp({edge_}, {ops::seed_basis(output_, count, row)}, inputs, sweep_, &looped_ops_);
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
        return false;
      case Failure::kOther:
        failing_node_ = find_failing_node({edge_}, {ops::seed_basis(output_, count, row)}, inputs);
        fell_back_ = true;
        chunk_size_ = 1;
        return false;
    }
    return false;
  }

  [[noreturn]] void throw_out_of_memory(int64_t count) const {
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
  void warn_of_loops() const {
    if (fell_back_) {
      const std::string culprit = failing_node_.empty() ? "a hook on the graph" : failing_node_;
      warn(
          options_,
          "torch.vmap cannot run " + culprit +
              "; its Jacobian is computed row by row, with the same values but slower");
    }
    if (!looped_ops_.empty()) {
      const std::set<std::string> ops(looped_ops_.begin(), looped_ops_.end());
      warn(options_, "torch.vmap has no batching rule for " + c10::Join(", ", ops) + " and loops over its rows");
    }
  }

  const at::Tensor& output_;
  Edge edge_;
  const JacobianOptions& options_;
  SweepOptions sweep_;
  int64_t chunk_size_;
  bool fell_back_ = false;
  std::string failing_node_;
  std::vector<std::string> looped_ops_;
};

// Why forward mode cannot be used for one output, or an empty string.
std::string forward_obstacle(const at::Tensor& output, const Tape& tape, const std::vector<at::Tensor>& inputs) {
  for (const tape::TapeNode& node : tape.nodes) {
    if (!tape::is_vjp_recorded(*node.node)) {
      return "double backward through " + node.node->name() + ", or through its hooks, may be wrong";
    }
    if (!tape::takes_dtype(*node.node, output.dtype())) {
      return "the graph mixes dtypes, which would round differently";
    }
  }
  if (torch::autograd::AnomalyMode::is_enabled()) {
    return "anomaly mode is on";
  }
  if (output.key_set().has_any(
          c10::DispatchKeySet({c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::Python}))) {
    return "f is inside a torch.func transform, or of a tensor subclass";
  }
  for (const at::Tensor& input : inputs) {
    if (input.is_complex()) {
      return "a wrt is complex";
    }
    if (input.device() != output.device()) {
      return "f and wrt are on different devices";
    }
  }
  return "";
}

// Whether all entries are finite, or so large that their sum is not. Entries without data are.
bool is_finite(const at::Tensor& tensor) {
  return tensor.is_meta() || std::isfinite(tensor.detach().sum().item<double>());
}

// All columns of one output, in forward mode. See Note [Forward mode by double backward]. Returns false, with `blocks`
// as they were, when the graph has no double backward, or when an entry is not finite: 0 * inf = NaN arises in other
// places than in reverse mode, which is what users know.
bool run_columns(
    const at::Tensor& output,
    const edge_list& edges,
    const std::vector<JacobianBlock*>& blocks,
    const JacobianOptions& options,
    Progress& progress) {
  std::vector<at::Tensor> columns; // by input j: [*input.shape, *output.shape], or undefined for zeros
  try {
    const Linearization linear = linearize(output, edges);
    const edge_list cotangent_edge{edge_of(linear.cotangent)};
    for (const at::Tensor& product : linear.products) {
      if (!product.defined()) {
        columns.emplace_back();
        continue;
      }
      const Tape tape = tape::read_tape(edge_of(product), cotangent_edge);
      if (!tape.inputs[0].is_on_tape()) {
        return false;
      }
      JacobianBlock block(product, linear.cotangent, options.create_graph, std::nullopt);
      OutputSweeps(product, tape, options, /*keep_graph=*/true).run(cotangent_edge, {&block}, progress);
      columns.push_back(block.finish());
      if (!is_finite(columns.back())) {
        return false;
      }
    }
  } catch (...) {
    const std::exception_ptr exception = std::current_exception();
    if (judge_failure(exception) != Failure::kOther) {
      std::rethrow_exception(exception);
    }
    return false;
  }
  for (const auto j : c10::irange(blocks.size())) {
    blocks[j]->append_columns(std::move(columns[j]));
  }
  return true;
}

// Fills `blocks` with the Jacobians of one output by `inputs`, which it reaches, in the cheaper mode.
void run_output(
    const at::Tensor& output,
    const Tape& tape,
    const std::vector<at::Tensor>& inputs,
    const edge_list& edges,
    const std::vector<JacobianBlock*>& blocks,
    const JacobianOptions& options,
    const std::shared_ptr<const structure::Compression>& kept,
    bool keep_graph,
    Progress& progress) {
  const int64_t rows = output.numel();
  int64_t columns = 0;
  for (const at::Tensor& input : inputs) {
    columns += input.numel();
  }
  if (options.use_structure && options.mode != plan::Mode::kForward &&
      run_compressed(
          options.caller,
          {output, tape, inputs, edges},
          kept,
          blocks,
          {options.create_graph, options.chunk_size, [&](int64_t passes) { progress.add(passes); }},
          [&](int64_t passes) { progress.expect(passes - rows); })) {
    return;
  }
  if (options.mode == plan::Mode::kForward ||
      (options.mode == plan::Mode::kAuto && plan::is_forward_cheaper(rows, columns, tape.bytes_per_row))) {
    std::string obstacle = forward_obstacle(output, tape, inputs);
    if (obstacle.empty()) {
      progress.expect(columns - rows);
      if (run_columns(output, edges, blocks, options, progress)) {
        return;
      }
      progress.expect(rows);
      obstacle = "the graph has no double backward, or gives an entry that is not finite";
    }
    if (options.mode == plan::Mode::kForward) {
      warn(options, "mode=\"forward\" cannot be used, and reverse mode is: " + obstacle);
    }
  }
  OutputSweeps(output, tape, options, keep_graph).run(edges, blocks, progress);
}

} // namespace

std::vector<at::Tensor> full_jacobian(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    const JacobianOptions& options,
    const std::optional<std::vector<at::Tensor>>& out) {
  check_arguments(options.caller, outputs, inputs, options.create_graph, options.chunk_size, out);
  check_batch_dims(options.caller, options.batch_dims, outputs, inputs);
  const edge_list input_edges = edges_of(inputs);
  const std::vector<Tape> tapes = read_tapes(outputs, input_edges);
  check_paths(outputs, inputs, input_edges, tapes, options);

  RetainedGrads retained_grads;
  int64_t total_rows = 0;
  for (const auto i : c10::irange(outputs.size())) {
    total_rows += outputs[i].numel();
    for (const tape::TapeNode& node : tapes[i].nodes) {
      retained_grads.suspend(node.node);
    }
  }

  // With a single row the engine frees the tape itself, as it goes; otherwise it is freed when all rows are there, so
  // that no sweep, and no second try of one, finds it half freed.
  const bool engine_frees = !options.retain_graph && total_rows == 1 && options.mode != plan::Mode::kForward &&
      options.layout == at::kStrided && options.batch_dims == 0;
  const at::AutoGradMode grad_mode(options.create_graph);
  std::vector<at::Tensor> results;
  results.reserve(outputs.size() * inputs.size());
  Progress progress(options, total_rows);
  for (const auto i : c10::irange(outputs.size())) {
    const std::shared_ptr<const structure::Compression> kept = options.kept.empty() ? nullptr : options.kept[i];
    if (options.layout != at::kStrided || options.batch_dims > 0) {
      const SpecialProblem special{
          outputs[i],
          tapes[i],
          inputs,
          input_edges,
          options,
          [&](int64_t passes) { progress.add(passes); },
          [&](int64_t passes) { progress.expect(passes - outputs[i].numel()); }};
      if (options.batch_dims > 0) {
        append_batch_jacobians(special, results);
      } else {
        append_sparse_jacobians(special, kept, results);
      }
      continue;
    }
    std::vector<JacobianBlock> jacobians;
    jacobians.reserve(inputs.size());
    std::vector<at::Tensor> reached;
    edge_list edges;
    std::vector<JacobianBlock*> blocks;
    for (const auto j : c10::irange(inputs.size())) {
      jacobians.emplace_back(
          outputs[i],
          inputs[j],
          options.create_graph,
          out.has_value() ? std::optional<at::Tensor>((*out)[i * inputs.size() + j]) : std::nullopt);
      if (tapes[i].inputs[j].is_on_tape() && inputs[j].numel() > 0) {
        reached.push_back(inputs[j]);
        edges.push_back(input_edges[j]);
        blocks.push_back(&jacobians.back());
      }
    }
    if (!blocks.empty()) {
      run_output(outputs[i], tapes[i], reached, edges, blocks, options, kept, !engine_frees, progress);
    }
    for (const auto j : c10::irange(inputs.size())) {
      const bool is_empty = outputs[i].numel() == 0 || inputs[j].numel() == 0;
      check_dependence(jacobians[j].is_used() || is_empty, i, j, options);
      results.push_back(jacobians[j].finish());
      TORCH_CHECK(
          !options.strict || !options.create_graph || results.back().requires_grad() || is_empty,
          options.caller,
          ": The jacobian of the user-provided function is independent of input ",
          j,
          ". This is not allowed in strict mode when create_graph=True.");
    }
  }
  if (!options.retain_graph && !engine_frees) {
    release(tapes);
  }
  return results;
}

void release_graph(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs) {
  release(read_tapes(outputs, edges_of(inputs)));
}

} // namespace highgrad::engine
