#pragma once

#include <vector>

#include "tape/tape.h"

namespace highgrad::plan {

// The tensors that lie on every path from the output to the inputs, from the output on, without either: the single
// dominators of the tape. Each one's Node and all that follow it are what lies between it and the inputs.
std::vector<tape::Slot> find_bottlenecks(const tape::Tape& tape);

} // namespace highgrad::plan
