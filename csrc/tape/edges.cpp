#include "tape/edges.h"

#include <torch/csrc/autograd/variable.h>

namespace highgrad::tape {

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

std::vector<Tape> read_tapes(const std::vector<at::Tensor>& outputs, const edge_list& inputs) {
  std::vector<Tape> tapes;
  tapes.reserve(outputs.size());
  for (const at::Tensor& output : outputs) {
    tapes.push_back(read_tape(edge_of(output), inputs));
  }
  return tapes;
}

} // namespace highgrad::tape
