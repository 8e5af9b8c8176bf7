#include "plan/bottlenecks.h"

#include <c10/util/irange.h>

#include <cstdint>

namespace highgrad::plan {
namespace {

// The tensors of one Node that have been handed a cotangent: a bit each. Past 64 of one Node they count more than once,
// which only hides a bottleneck.
struct Open {
  uint64_t seen = 0;
  uint32_t last = 0;
  int64_t count = 0;

  void add(uint32_t input_nr) {
    const uint64_t bit = input_nr < 64 ? uint64_t{1} << input_nr : 0;
    if ((seen & bit) == 0) {
      seen |= bit;
      last = input_nr;
      ++count;
    }
  }
};

} // namespace

// Cotangents only go forward in the order of the Nodes. A tensor lies on every path if, when its Node's turn comes, it
// alone has been handed a cotangent that has not been passed on.
std::vector<tape::Slot> find_bottlenecks(const tape::Tape& tape) {
  std::vector<tape::Slot> found;
  if (!tape.output.is_on_tape()) {
    return found;
  }
  std::vector<bool> is_input(tape.nodes.size(), false);
  for (const tape::Slot& input : tape.inputs) {
    if (input.is_on_tape()) {
      is_input[input.node] = true;
    }
  }
  std::vector<Open> open(tape.nodes.size());
  open[tape.output.node].add(tape.output.input_nr);
  int64_t num_open = 1;
  // What an input takes is never passed on: no bottleneck follows.
  for (int32_t i = 0; i < static_cast<int32_t>(tape.nodes.size()) && !is_input[i]; ++i) {
    if (i > 0 && num_open == 1 && open[i].count == 1) {
      found.push_back({i, open[i].last});
    }
    num_open -= open[i].count;
    for (const tape::Slot& link : links_of(tape, tape.nodes[i])) {
      if (link.is_on_tape()) {
        Open& target = open[link.node];
        num_open -= target.count;
        target.add(link.input_nr);
        num_open += target.count;
      }
    }
  }
  return found;
}

} // namespace highgrad::plan
