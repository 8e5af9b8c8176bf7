#include "engine/endpoint.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/function.h>

#include "tape/edges.h"

namespace highgrad::engine {

Endpoint endpoint_of(const at::Tensor& tensor) {
  return {tape::edge_of(tensor), tensor};
}

Endpoint endpoint_of(const tape::Tape& tape, tape::Slot slot) {
  torch::autograd::Node& node = *tape.nodes[slot.node].node;
  const auto& metadata = node.input_metadata(slot.input_nr);
  // One element is enough for a shape.
  const at::Tensor element = at::empty({}, metadata.options());
  return {{node.getptr(), slot.input_nr}, element.expand(*tape::shape_of(node, slot.input_nr))};
}

} // namespace highgrad::engine
