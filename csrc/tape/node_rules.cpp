#include "tape/node_rules.h"

#include <torch/csrc/autograd/functions/tensor.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <typeinfo>

namespace highgrad::tape {

// Note [Distrusted Nodes]
// functorch's batching rule of these Nodes' backward gives wrong values without an error, for some shapes at least, in
// a release of torch that we support. Tapes that run one of them go row by row. tests/test_distrusted_nodes.py shows
// each of them wrong.
struct DistrustedNode {
  std::string_view name;
  // Whether the rule is wrong for 0-d cotangents alone.
  bool only_scalars;
};

constexpr std::array kDistrusted = {
    DistrustedNode{"CdistBackward0", false},
    // Rolls a batch of 0-d tensors along the batch.
    DistrustedNode{"RollBackward0", true},
};

namespace {

// typeid's name is compared instead of Node::name(), which demangles it at a microsecond a Node. Generated Nodes are
// mangled as "...<length><name>E".
bool is_type(std::string_view mangled, std::string_view name) {
  return mangled.size() > name.size() && mangled.substr(mangled.size() - 1 - name.size(), name.size()) == name;
}

} // namespace

bool is_distrusted(torch::autograd::Node& node) {
  const std::type_info& type = typeid(node);
  if (type == typeid(torch::autograd::CopySlices)) {
    auto& wrapped = static_cast<torch::autograd::CopySlices&>(node).fn;
    return wrapped && is_distrusted(*wrapped);
  }
  const std::string_view mangled(type.name());
  return std::any_of(kDistrusted.begin(), kDistrusted.end(), [&](const DistrustedNode& row) {
    return is_type(mangled, row.name) && (!row.only_scalars || node.input_metadata(0).shape_as_dim_vector().empty());
  });
}

std::vector<std::string> distrusted_nodes() {
  std::vector<std::string> names;
  for (const DistrustedNode& row : kDistrusted) {
    names.emplace_back(row.name);
  }
  return names;
}

} // namespace highgrad::tape
