#include "engine/double_backward_jvp.h"

#include <ATen/ops/arange.h>
#include <torch/csrc/autograd/engine.h>

#include <utility>

namespace highgrad::engine {
namespace {

// The golden angle, no multiple of which is near a full turn.
constexpr double kStep = 2.399963229728653;

} // namespace

Linearization linearize(const Endpoint& root, const torch::autograd::edge_list& inputs) {
  // Without a random number generator, whose state is the user's.
  at::Tensor cotangent = at::arange(root.like.numel(), root.like.options().dtype(at::kFloat))
                             .mul_(kStep)
                             .cos_()
                             .mul_(0.5)
                             .add_(1)
                             .to(root.like.scalar_type())
                             .view(root.like.sizes());
  cotangent.set_requires_grad(true);
  auto products = torch::autograd::Engine::get_default_engine().execute(
      {root.edge},
      {cotangent},
      /*keep_graph=*/true,
      /*create_graph=*/true,
      /*accumulate_grad=*/false,
      inputs);
  return {std::move(cotangent), std::move(products)};
}

} // namespace highgrad::engine
