#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace highgrad::engine {

struct JacobianOptions {
  // Name of the public function, for messages.
  std::string caller;
  bool create_graph = true;
  bool retain_graph = true;
  bool allow_unused = true;
  bool strict = false;
  std::optional<int64_t> chunk_size;
  plan::Mode mode = plan::Mode::kAuto;
  // Whether to look for structure and to compute only what it leaves.
  bool use_structure = true;
  // Plans to use, one for each output or none at all.
  std::vector<std::shared_ptr<const plan::OutputPlan>> plans = {};
  // Of the results: strided, or sparse matrices [output.numel(), input.numel()].
  at::Layout layout = at::kStrided;
  // How many of the first axes of all outputs and inputs count independent samples.
  int64_t batch_dims = 0;
  // Called after every sweep with the passes done and all passes; may throw.
  std::function<void(int64_t, int64_t)> after_sweep;
  // Takes what the user should be warned of, if the call succeeds.
  std::function<void(std::string)> on_warning;
};

// Warns, in the name of the caller.
void warn(const JacobianOptions& options, const std::string& message);

// Passes done and to do, for the caller's progress function.
class Progress {
 public:
  Progress(const JacobianOptions& options, int64_t total) : options_(options), total_(total) {}

  void add(int64_t passes) {
    done_ += passes;
    options_.after_sweep(done_, total_);
  }

  void expect(int64_t total) {
    total_ = total;
  }

  int64_t done() const {
    return done_;
  }

  int64_t total() const {
    return total_;
  }

 private:
  const JacobianOptions& options_;
  int64_t done_ = 0;
  int64_t total_;
};

} // namespace highgrad::engine
