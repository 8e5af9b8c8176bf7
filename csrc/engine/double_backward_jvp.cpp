#include "engine/double_backward_jvp.h"

#include <torch/csrc/autograd/engine.h>

#include <utility>

namespace highgrad::engine {

Linearization linearize(const Endpoint& root, const torch::autograd::edge_list& inputs, at::Tensor cotangent) {
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
