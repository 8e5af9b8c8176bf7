#include "engine/recorded_gradients.h"

#include <ATen/ops/ones_like.h>

#include <algorithm>

#include "engine/batched_vjp.h"
#include "tape/edges.h"
#include "tape/node_rules.h"

namespace highgrad::engine {

bool is_recorded_right(const tape::Tape& tape) {
  return std::none_of(tape.nodes.begin(), tape.nodes.end(), [](const tape::TapeNode& node) {
    return node.runs && tape::is_recorded_wrong(*node.node);
  });
}

std::vector<at::Tensor> recorded_gradients(const OutputProblem& problem, bool keep_graph, Progress& progress) {
  auto gradients = plain_vjp(
      {tape::edge_of(problem.output)},
      {at::ones_like(problem.output)},
      problem.edges,
      {keep_graph, /*create_graph=*/true});
  progress.add(1);
  return gradients;
}

} // namespace highgrad::engine
