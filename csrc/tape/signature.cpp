#include "tape/signature.h"

#include <c10/util/irange.h>

#include <functional>
#include <string_view>
#include <typeinfo>

namespace highgrad::tape {

uint64_t signature_of(const Tape& tape) {
  Hash hash;
  hash.add(tape.output);
  for (const Slot& input : tape.inputs) {
    hash.add(input);
  }
  for (const TapeNode& entry : tape.nodes) {
    torch::autograd::Node& node = *entry.node;
    hash.add(static_cast<int64_t>(std::hash<std::string_view>()(typeid(node).name())));
    hash.add(is_vjp_linear(node));
    for (const auto i : c10::irange(node.num_inputs())) {
      const auto& metadata = node.input_metadata(i);
      if (!metadata.was_default_constructed()) {
        hash.add(static_cast<int64_t>(c10::typeMetaToScalarType(metadata.dtype())));
        hash.add(static_cast<int64_t>(metadata.device().type()));
      }
      hash.add(shape_of(node, i).value_or(std::vector<int64_t>{-1}));
    }
    for (const Slot& link : links_of(tape, entry)) {
      hash.add(link);
    }
  }
  return hash.value();
}

} // namespace highgrad::tape
