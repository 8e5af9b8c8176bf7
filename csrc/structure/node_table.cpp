#include "structure/node_table.h"

#include <c10/util/flat_hash_map.h>
#include <torch/csrc/autograd/functions/tensor.h>

#include <algorithm>
#include <functional>
#include <string_view>
#include <typeinfo>
#include <utility>

#include "structure/node_rows.h"

namespace highgrad::structure {
namespace {

using torch::autograd::Node;

// Mangled names of generated Nodes and of ours begin and end so, with the length of the name before it; those of
// torch's own that are written by hand have nothing in between.
bool is_row_of(std::string_view mangled, std::string_view name) {
  const auto starts = [&](std::string_view scope) { return mangled.substr(0, scope.size()) == scope; };
  const std::string suffix = std::to_string(name.size()) + std::string(name) + "E";
  if (!starts("N5torch8autograd9generated") && !starts("N8highgrad")) {
    return mangled == "N5torch8autograd" + suffix;
  }
  return mangled.size() > suffix.size() && mangled.substr(mangled.size() - suffix.size()) == suffix;
}

const Row* find_row(const std::type_info& type) {
  // By the address of the type's name: looked up once a type and thread.
  static thread_local ska::flat_hash_map<const char*, const Row*> known;
  const auto [entry, is_new] = known.emplace(type.name(), nullptr);
  if (is_new) {
    for (const Row& row : node_rows()) {
      if (is_row_of(type.name(), row.name)) {
        entry->second = &row;
        break;
      }
    }
  }
  return entry->second;
}

// Along which axis of the base each axis of the view lies, and how; nothing where one lies along several.
void read_view(const at::TensorGeometry& base, const at::TensorGeometry& view, NodeAttributes& attributes) {
  if (!base.is_contiguous()) {
    return;
  }
  NodeAttributes found;
  found.view = view.sizes().vec();
  // What is left of the offset, and of the numbers of elements, below each axis.
  std::vector<int64_t> strides(base.dim());
  std::vector<int64_t> starts(base.dim());
  int64_t offset = view.storage_offset() - base.storage_offset();
  int64_t stride = 1;
  for (int64_t d = base.dim() - 1; d >= 0; --d) {
    strides[d] = stride;
    starts[d] = offset % base.size(d);
    offset /= base.size(d);
    stride *= base.size(d);
  }
  const auto is_taken = [&](int64_t d) {
    return std::find(found.dims.begin(), found.dims.end(), d) != found.dims.end();
  };
  for (int64_t k = 0; k < view.dim(); ++k) {
    found.dims.push_back(-1);
    found.slides.emplace_back();
    for (int64_t d = 0; d < base.dim() && view.size(k) > 1; ++d) {
      const int64_t step = view.stride(k) / strides[d];
      if (step > 0 && view.stride(k) % strides[d] == 0 && !is_taken(d) &&
          starts[d] + (view.size(k) - 1) * step < base.size(d)) {
        found.dims.back() = d;
        found.slides.back() = {Slide::Kind::kUnder, 1, step, -starts[d]};
        break;
      }
    }
    if (view.size(k) > 1 && found.dims.back() < 0) {
      return;
    }
  }
  for (int64_t d = 0; d < base.dim(); ++d) {
    if (!is_taken(d)) {
      found.dims.push_back(d);
      found.slides.push_back({Slide::Kind::kUnder, 1, 1, -starts[d]});
    }
  }
  attributes.dims = std::move(found.dims);
  attributes.slides = std::move(found.slides);
  attributes.view = std::move(found.view);
}

// Where the view lies in its base, and what tells the wrapped Node apart from others.
std::optional<NodeAttributes> attributes_of_slices(Node& node, Node& wrapped) {
  const auto& slices = static_cast<torch::autograd::CopySlices&>(node);
  const int64_t rank = slices.view.dim();
  std::optional<NodeAttributes> of_wrapped = attributes_of(wrapped, rank, rank);
  if (!of_wrapped.has_value()) {
    return std::nullopt;
  }
  Reader reader;
  std::vector<int64_t>& others = reader.attributes.others;
  reader.append(others, slices.base);
  reader.append(others, slices.view);
  others.push_back(static_cast<int64_t>(std::hash<std::string_view>()(typeid(wrapped).name())));
  reader.append(others, of_wrapped->dims);
  reader.append(others, of_wrapped->others);
  if (reader.is_known && slices.view_fn == nullptr) {
    read_view(slices.base, slices.view, reader.attributes);
  }
  reader.attributes.indices = std::move(of_wrapped->indices);
  reader.attributes.has_places = of_wrapped->has_places && slices.view_fn == nullptr;
  return reader.is_known ? std::optional(std::move(reader.attributes)) : std::nullopt;
}

} // namespace

Node* wrapped_by(Node& node) {
  return typeid(node) == typeid(torch::autograd::CopySlices) ? static_cast<torch::autograd::CopySlices&>(node).fn.get()
                                                             : nullptr;
}

std::optional<NodeFacts> facts_of(Node& node) {
  if (!node.pre_hooks().empty() || !node.tensor_pre_hooks().empty() || !node.post_hooks().empty()) {
    return std::nullopt;
  }
  if (Node* wrapped = wrapped_by(node)) {
    std::optional<NodeFacts> facts = facts_of(*wrapped);
    if (facts.has_value()) {
      facts->flow = facts->flow == Flow::kPointwise ? Flow::kWrite : Flow::kOther;
      facts->is_full = false;
      facts->pick = Pick::kNone;
      facts->placing = Placing::kTaken;
    }
    return facts;
  }
  const Row* row = find_row(typeid(node));
  if (row == nullptr) {
    return std::nullopt;
  }
  NodeFacts facts = row->facts;
  if (row->applies != nullptr && !row->applies(node)) {
    facts.flow = Flow::kOther;
    facts.is_global = false;
    facts.is_full = false;
  }
  return facts;
}

std::optional<NodeAttributes> attributes_of(Node& node, int64_t in_rank, int64_t out_rank) {
  if (Node* wrapped = wrapped_by(node)) {
    return attributes_of_slices(node, *wrapped);
  }
  const Row* row = find_row(typeid(node));
  Reader reader;
  if (row == nullptr) {
    return std::nullopt;
  }
  if (row->read != nullptr) {
    row->read(node, reader);
  }
  if (!reader.is_known) {
    return std::nullopt;
  }
  // Where axes are resized, out has those of the first in, which may be off the tape.
  const bool is_of_out = row->facts.flow == Flow::kInsert || row->facts.flow == Flow::kResize;
  const int64_t rank = is_of_out ? out_rank : in_rank;
  for (int64_t& dim : reader.attributes.dims) {
    dim = dim < 0 ? dim + rank : dim;
    if (dim < 0 || dim >= std::max<int64_t>(rank, 1)) {
      return std::nullopt;
    }
  }
  return std::move(reader.attributes);
}

std::vector<std::string> known_nodes() {
  std::vector<std::string> names;
  for (const Row& row : node_rows()) {
    names.emplace_back(row.name);
  }
  return names;
}

} // namespace highgrad::structure
