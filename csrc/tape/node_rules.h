#pragma once

#include <torch/csrc/autograd/function.h>

#include <string>
#include <vector>

namespace highgrad::tape {

// Whether torch's vmap of this Node, or of one that it wraps, is known to give silently wrong values.
bool is_distrusted(torch::autograd::Node& node);

// The names of all such Nodes.
std::vector<std::string> distrusted_nodes();

} // namespace highgrad::tape
