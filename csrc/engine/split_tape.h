#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/flat_hash_map.h>
#include <torch/csrc/autograd/function.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/vmap_level.h"
#include "tape/tape.h"
#include "torch_compat.h"

namespace highgrad::engine {

// Note [Splitting the tape]
// torch.vmap cannot run the backward of every Node, and gets that of some wrong. Such a Node alone runs row by row, in
// the midst of a sweep that is batched above and below it.
//
// The engine cannot be stopped in front of that Node and started again behind it. It hands out cotangents at given
// edges, but runs that tensor's hooks on them, and all Nodes that lead from one of these edges to another: where the
// graph goes around the Node, as a residual network's does, no edges cut it. Nor are the recorded edges changed for the
// time of a sweep: another thread may be sweeping the same graph.
//
// So the engine gets a graph of stand-ins. One stands for each Node that the sweep runs, has the same inputs, links and
// order, passes on to its hooks, and runs the Node itself, once for the batch or, outside of the vmap level, once for
// every row. The recorded graph is only read, and any number of Nodes may be looped.
//
// Nodes leave out what no sweep asks for: they look up whether the engine runs the recorded Node behind each output.
// The recorded Nodes of the tape are therefore given to the engine as further inputs, where nothing ever arrives.
struct SplitSweep;

class SplitTape {
 public:
  // Nodes that torch's vmap is known to get wrong, in what create_graph records at least, are run by our own product of
  // the whole batch, or else looped from the start.
  // The graph must outlive the object.
  SplitTape(const tape::Tape& tape, bool create_graph);
  ~SplitTape();

  // Whether there are such Nodes, by the worst of them.
  static bool is_needed(tape::Distrust distrust, bool create_graph);

  SplitTape(const SplitTape&) = delete;
  SplitTape& operator=(const SplitTape&) = delete;

  // torch's engine, for cotangents batched at `level`, from edges of the recorded graph to others; keeps the graph.
  std::vector<at::Tensor> execute(
      const VmapLevel& level,
      const torch::autograd::edge_list& outputs,
      const std::vector<at::Tensor>& cotangents,
      const torch::autograd::edge_list& inputs,
      bool create_graph);

  // After execute has thrown: loops all Nodes with the name of the one that did, in all sweeps to come. False if that
  // cannot help: it was no Node, but a hook; it was looped already; or too many failed before.
  bool loop_failed();

  // The names of the Nodes that were looped because they failed.
  const std::vector<std::string>& failed() const {
    return failed_;
  }

 private:
  torch::autograd::Edge stand_in(const torch::autograd::Edge& edge) const;

  std::vector<NodePtr<torch::autograd::Node>> stand_ins_; // each after all that it hands cotangents to
  ska::flat_hash_map<const torch::autograd::Node*, size_t> index_;
  torch::autograd::edge_list recorded_;
  std::shared_ptr<SplitSweep> sweep_;
  std::vector<std::string> failed_;
};

} // namespace highgrad::engine
