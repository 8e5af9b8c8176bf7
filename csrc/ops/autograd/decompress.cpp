// Derivatives of decompress and compress: each is linear, and the other's adjoint.

#include "ops/decompress.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

#include <vector>

#include "ops/autograd/record.h"

namespace highgrad::ops {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using Op = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::SymIntArrayRef);

template <Op& adjoint>
struct EntriesBackward : public torch::autograd::Node {
  SavedVariable source;
  SavedVariable target;
  std::vector<c10::SymInt> shape; // of what the op took

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) {
      return {at::Tensor()};
    }
    const at::Tensor targets = target.unpack();
    return {adjoint(
        grads[0], source.unpack(), targets.defined() ? std::optional<at::Tensor>(targets) : std::nullopt, shape)};
  }

  void release_variables() override {
    source.reset_data();
    target.reset_data();
  }
};

struct DecompressBackward : public EntriesBackward<compress> {
  std::string name() const override {
    return "DecompressBackward";
  }
};

struct CompressBackward : public EntriesBackward<decompress> {
  std::string name() const override {
    return "CompressBackward";
  }
};

template <typename Backward, Op& op>
at::Tensor entries_autograd(
    const at::Tensor& from,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    c10::SymIntArrayRef shape) {
  const auto fill = [&](Backward& node) {
    node.source = SavedVariable(source, /*is_output=*/false);
    node.target = SavedVariable(target, /*is_output=*/false);
    node.shape = from.sym_sizes().vec();
  };
  return record_linear<Backward>(from, fill, [&](const at::Tensor& x) { return op(x, source, target, shape); });
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, Autograd, m) {
  using namespace highgrad::ops;
  m.impl("decompress", TORCH_FN((entries_autograd<DecompressBackward, decompress>)));
  m.impl("compress", TORCH_FN((entries_autograd<CompressBackward, compress>)));
}
