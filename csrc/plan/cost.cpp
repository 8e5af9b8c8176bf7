#include "plan/cost.h"

#include <c10/util/flat_hash_map.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <typeinfo>

#include "structure/node_table.h"

namespace highgrad::plan {
namespace {

// Measured on 2 CPU cores in float32. An accelerator's are its data sheet's, slowed by two.
constexpr CostModel kCpu{5e3, 15e3, 0.15, 0.02};
constexpr CostModel kCpuWithoutEngine{2e3, 9e3, 0.08, 0.02};
constexpr CostModel kAccelerator{10e3, 30e3, 1e-3, 5e-5};

// Forward mode runs over half as many cotangents again.
constexpr double kForwardBytes = 1.5;

// A product of two factors needs some fifteen operators besides.
constexpr double kOperatorsOfProduct = 15;

// What a type of Node takes: by matrices that it multiplies, of which the two operands come last, or so many times as
// long for a byte as elementwise ones, where kernels go element by element.
enum class Kind { kBytes, kMatrixProduct, kConvolution };
struct Costs {
  std::string_view name;
  Kind kind = Kind::kBytes;
  int64_t times = 1;
  bool is_elementwise = false;
};
constexpr Costs kCosts[] = {
    {"AddmmBackward0", Kind::kMatrixProduct},
    {"AddmvBackward0", Kind::kMatrixProduct},
    {"BaddbmmBackward0", Kind::kMatrixProduct},
    {"BmmBackward0", Kind::kMatrixProduct},
    {"MmBackward0", Kind::kMatrixProduct},
    {"MvBackward0", Kind::kMatrixProduct},
    {"ConvolutionBackward0", Kind::kConvolution},
    {"EmbeddingBackward0", Kind::kBytes, 4},
    {"GatherBackward0", Kind::kBytes, 3},
    {"IndexAddBackward0", Kind::kBytes, 4},
    {"IndexBackward0", Kind::kBytes, 6},
    {"IndexPutBackward0", Kind::kBytes, 6},
    {"IndexPutImplBackward0", Kind::kBytes, 6},
    {"IndexSelectBackward0", Kind::kBytes, 4},
    {"LinalgCrossBackward0", Kind::kBytes, 8},
    {"ScatterAddBackward0", Kind::kBytes, 4},
    {"SparseAddmmBackward0", Kind::kBytes, 50}, // behind AddmmBackward0, of which it has the name, too
    {"TakeBackward0", Kind::kBytes, 5},
    {"UpsampleBicubic2DBackward0", Kind::kBytes, 50},
    {"UpsampleBilinear2DBackward0", Kind::kBytes, 20},
    {"UpsampleLinear1DBackward0", Kind::kBytes, 20},
};

// Likewise what is summed over what an operand was broadcast along.
constexpr int64_t kSummed = 4;

int64_t numel(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t size : shape) {
    product *= size;
  }
  return product;
}

// As "...<length><name>E".
bool is_mangled(std::string_view type, std::string_view name) {
  return type.size() > name.size() && type.substr(type.size() - 1 - name.size(), name.size()) == name;
}

Costs costs_of_type(torch::autograd::Node& node) {
  Costs found;
  for (const Costs& costs : kCosts) {
    if (is_mangled(typeid(node).name(), costs.name)) {
      found = costs;
    }
  }
  const std::optional<structure::NodeFacts> facts = structure::facts_of(node);
  found.is_elementwise = facts.has_value() && facts->pick == structure::Pick::kNone &&
      (facts->flow == structure::Flow::kPointwise || facts->flow == structure::Flow::kFlat);
  return found;
}

// By the address of the type's name: looked up once a type and thread. Of Nodes with hooks nothing is known, but of
// their type.
Costs costs_of(torch::autograd::Node& node) {
  static thread_local ska::flat_hash_map<const char*, Costs> known;
  const auto found = known.find(typeid(node).name());
  if (found != known.end()) {
    return found->second;
  }
  const Costs costs = costs_of_type(node);
  if (tape::is_vjp_linear(node)) {
    known.emplace(typeid(node).name(), costs);
  }
  return costs;
}

int64_t padded_channels(int64_t channels) {
  return (channels + kChannelsTogether - 1) / kChannelsTogether * kChannelsTogether;
}

// By the input and by the weight alike: every element of out by every kernel element that it meets.
int64_t multiplications_of_convolution(const tape::Tape& tape, const tape::TapeNode& node) {
  const auto links = links_of(tape, node);
  const auto out = tape::shape_of(*node.node, 0);
  const tape::Slot& input = links.front();
  const auto in = input.is_on_tape() ? tape::shape_of(*tape.nodes[input.node].node, input.input_nr) : std::nullopt;
  if (!out.has_value() || !in.has_value() || in->size() < 3 || out->size() != in->size()) {
    return 0;
  }
  const auto rank = static_cast<int64_t>(in->size());
  const auto attributes = structure::attributes_of(*node.node, rank, rank);
  if (!attributes.has_value() || attributes->slides.size() + 2 != in->size()) {
    return 0;
  }
  const int64_t groups = attributes->groups;
  int64_t count = out->front() * groups * padded_channels((*in)[1] / groups) * padded_channels((*out)[1] / groups);
  for (size_t axis = 2; axis < in->size(); ++axis) {
    const structure::Slide& slide = attributes->slides[axis - 2];
    count *= slide.kernel * (slide.kind == structure::Slide::Kind::kUnder ? (*in)[axis] : (*out)[axis]);
  }
  return count;
}

// The shape of the cotangent that a link brings, or none.
std::optional<std::vector<int64_t>> shape_at(const tape::Tape& tape, const tape::Slot& link) {
  return link.is_on_tape() ? tape::shape_of(*tape.nodes[link.node].node, link.input_nr) : std::nullopt;
}

// Of a Node that multiplies no matrices.
int64_t bytes_of(const tape::Tape& tape, const tape::TapeNode& node, int64_t times) {
  if (node.node->num_inputs() == 1) {
    const auto out = tape::shape_of(*node.node, 0);
    for (const tape::Slot& link : links_of(tape, node)) {
      const auto in = shape_at(tape, link);
      times += out.has_value() && in.has_value() && 2 * numel(*in) <= numel(*out) ? kSummed : 0;
    }
  }
  return times * node.bytes;
}

} // namespace

Work work_of(const tape::Tape& tape, const tape::TapeNode& node) {
  Work work{node.runs ? 1 : 0, node.bytes, 0};
  const Costs costs = costs_of(*node.node);
  if (costs.kind == Kind::kBytes) {
    work.bytes = bytes_of(tape, node, costs.times);
    work.elementwise_bytes = costs.is_elementwise ? work.bytes : 0;
    return work;
  }
  if (costs.kind == Kind::kConvolution) {
    work.multiplications = multiplications_of_convolution(tape, node);
    return work;
  }
  const auto out = tape::shape_of(*node.node, 0);
  const auto links = links_of(tape, node);
  for (size_t operand = 0; operand < 2; ++operand) {
    const tape::Slot& link = links[links.size() - 2 + operand];
    const auto in = shape_at(tape, link);
    if (in.has_value() && out.has_value() && !in->empty()) {
      // [n, m] by the other operand gives [n, k] or [k, m].
      const bool is_vector = in->size() == 1;
      work.multiplications += numel(*out) * (operand == 0 || is_vector ? in->back() : (*in)[in->size() - 2]);
    }
  }
  return work;
}

Work work_of_known_head(const tape::Tape& tape, tape::Slot root) {
  Work skipped;
  for (tape::Slot slot = root;;) {
    const tape::TapeNode& node = tape.nodes[slot.node];
    const auto links = links_of(tape, node);
    if (!node.runs || std::count_if(links.begin(), links.end(), [](tape::Slot s) { return s.is_on_tape(); }) != 1) {
      return {};
    }
    const Work work = work_of(tape, node);
    skipped.add(work);
    if (work.multiplications > 0) {
      const auto out = tape::shape_of(*node.node, 0);
      return out.has_value() && out->size() < 3 && (out->size() < 2 || out->front() == 1) ? skipped : Work();
    }
    const std::optional<structure::NodeFacts> facts = structure::facts_of(*node.node);
    if (!facts.has_value() || (facts->flow != structure::Flow::kFlat && facts->flow != structure::Flow::kPointwise)) {
      return {};
    }
    slot = *std::find_if(links.begin(), links.end(), [](tape::Slot s) { return s.is_on_tape(); });
  }
}

double CostModel::reverse(const Work& work, int64_t rows) const {
  const double row =
      byte * static_cast<double>(work.bytes) + multiplication * static_cast<double>(work.multiplications);
  return node * static_cast<double>(work.nodes) + row * static_cast<double>(rows);
}

double CostModel::forward(const Work& work, int64_t columns) const {
  const double column = kForwardBytes * byte * static_cast<double>(work.bytes) +
      multiplication * static_cast<double>(work.multiplications);
  return recorded_node * static_cast<double>(work.nodes) + column * static_cast<double>(columns + 1);
}

double CostModel::product(int64_t rows, int64_t inner, int64_t columns) const {
  const double result = static_cast<double>(rows) * static_cast<double>(columns);
  return kOperatorsOfProduct * node + result * (multiplication * static_cast<double>(inner) + 8 * byte);
}

const CostModel& cost_model(c10::Device device, bool needs_engine) {
  return !device.is_cpu() ? kAccelerator : needs_engine ? kCpu : kCpuWithoutEngine;
}

} // namespace highgrad::plan
