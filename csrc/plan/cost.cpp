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

// Measured on 2 CPU cores, and on an H100 whose host starts a kernel in 12 us, in float32.
constexpr CostModel kCpu{5e3, 9e3, 25e3, 0.15, 0.06, 0.035, 90};
constexpr CostModel kCpuWithoutEngine{2e3, 9e3, 25e3, 0.08, 0.035, 0.035, 90};
constexpr CostModel kAccelerator{12e3, 30e3, 330e3, 1e-3, 5e-4, 5e-5, 0.5};

// Forward mode runs over half as many cotangents again.
constexpr double kForwardBytes = 1.5;

PassWork column_of(const PassWork& row) {
  return {kForwardBytes * row.bytes, kForwardBytes * row.elementwise_bytes, row.multiplications, row.matrices};
}

// Likewise for each element of the result, whose rows they are not.
constexpr double kBytesOfTransposed = 8;

// A product of two factors needs some fifteen operators besides.
constexpr double kOperatorsOfProduct = 15;

// What a type of Node takes: by matrices that it multiplies, of which the two operands come last, or so many times as
// long for a byte as others, where kernels go element by element; where they move elements from place to place, for
// each byte of what the Node takes and of what it hands on; or, for each matrix, as long as so many small ones.
enum class Kind { kBytes, kMovedBytes, kMatrices, kMatrixProduct, kMatrixExponential, kConvolution };
struct Costs {
  std::string_view name;
  Kind kind = Kind::kBytes;
  double times = 1;
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
    {"EmbeddingBackward0", Kind::kMovedBytes, 1.2},
    {"GatherBackward0", Kind::kMovedBytes, 2.5},
    {"IndexAddBackward0", Kind::kMovedBytes, 0.8},
    {"IndexBackward0", Kind::kMovedBytes, 1.5},
    {"IndexPutBackward0", Kind::kMovedBytes, 1.5},
    {"IndexPutImplBackward0", Kind::kMovedBytes, 1.5},
    {"IndexSelectBackward0", Kind::kMovedBytes, 1.2},
    {"LinalgCholeskyExBackward0", Kind::kMatrices, 15},
    {"LinalgCrossBackward0", Kind::kBytes, 8},
    {"LinalgInvExBackward0", Kind::kMatrices, 5},
    {"LinalgMatrixExpBackward0", Kind::kMatrixExponential},
    {"LinalgSolveExBackward0", Kind::kMatrices, 5},
    {"ScatterAddBackward0", Kind::kMovedBytes, 2.5},
    {"SparseAddmmBackward0", Kind::kBytes, 50}, // behind AddmmBackward0, of which it has the name, too
    {"TakeBackward0", Kind::kMovedBytes, 1},
    {"UpsampleBicubic2DBackward0", Kind::kBytes, 50},
    {"UpsampleBilinear2DBackward0", Kind::kBytes, 20},
    {"UpsampleLinear1DBackward0", Kind::kBytes, 20},
};

// A convolution takes some six operators' time besides, for each operand.
constexpr int64_t kOperatorsOfConvolution = 6;

// Likewise what is summed over what an operand was broadcast along.
constexpr double kSummed = 4;

// Likewise what convolutions do with the bytes of images, of cotangents and of windows. Kernels differ by twice as much
// from one shape to the next.
constexpr double kBytesOfImages = 3;
constexpr double kBytesOfRows = 1.5;
constexpr double kBytesOfRearrangedRows = 2.7;
constexpr double kBytesOfWindows = 5.6;
constexpr double kBytesOfColumns = 2.7;
constexpr double kBytesOfSpreadColumns = 4;
constexpr double kBytesOfWeights = 1.5;
constexpr double kBytesOfSpreadWeights = 5;
constexpr double kSpareChannels = 4;
constexpr double kMultiplicationsOfColumns = 0.4; // as many at a time as channels of all columns

// Of that, an image takes so much along the stride, and against it where there is one and where there is none; those of
// groups have kernels of their own.
struct Passage {
  double along;
  double against_stride;
  double against;
};
constexpr Passage kOneGroup{0.35, 2, 0.5};
constexpr Passage kGroups{1.35, 1.6, 1.35};

// Likewise an exponential, which is that of a matrix of four times as many elements, and of 16 times in forward mode;
// and of how many operators it is made.
constexpr double kBytesOfExponential = 500;
constexpr double kBytesOfRecordedExponential = 2000;
constexpr int64_t kOperatorsOfExponential = 30;

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

// The shape of the cotangent that a link brings, or none.
std::optional<std::vector<int64_t>> shape_at(const tape::Tape& tape, const tape::Slot& link) {
  return link.is_on_tape() ? tape::shape_of(*tape.nodes[link.node].node, link.input_nr) : std::nullopt;
}

// A convolution in numbers of elements.
struct Convolution {
  double element_bytes;
  double groups;
  double batch; // samples and groups
  double in_channels, out_channels; // of a group
  double kernel; // without channels
  double places; // of the kernel, in the input or, where it is transposed, in the output
  double in, out; // of all channels of the batch
  bool is_transposed;
  bool has_stride;
};

// Positions of an axis that the kernel takes, of which out has so many.
int64_t places_of(const structure::Slide& slide, int64_t out) {
  const bool is_transposed = slide.kind == structure::Slide::Kind::kUnder;
  const int64_t reach = slide.dilation * (slide.kernel - 1);
  return is_transposed ? (out + 2 * slide.padding - reach - 1) / slide.stride + 1 : out;
}

std::optional<Convolution> read_convolution(const tape::Tape& tape, const tape::TapeNode& node) {
  const auto links = links_of(tape, node);
  const auto out = tape::shape_of(*node.node, 0);
  const auto in = shape_at(tape, links.at(0));
  const auto weight = shape_at(tape, links.at(1));
  if (!out.has_value() || out->size() < 3 || numel(*out) == 0 || (!in.has_value() && !weight.has_value())) {
    return std::nullopt;
  }
  const auto rank = static_cast<int64_t>(out->size());
  const auto attributes = structure::attributes_of(*node.node, rank, rank);
  if (!attributes.has_value() || attributes->slides.size() + 2 != out->size()) {
    return std::nullopt;
  }
  const int64_t groups = attributes->groups;
  const bool is_transposed = attributes->slides.front().kind == structure::Slide::Kind::kUnder;
  int64_t kernel = 1;
  int64_t places = 1;
  bool has_stride = false;
  for (size_t axis = 2; axis < out->size(); ++axis) {
    const structure::Slide& slide = attributes->slides[axis - 2];
    kernel *= slide.kernel;
    places *= places_of(slide, (*out)[axis]);
    has_stride |= slide.stride > 1;
  }
  const int64_t in_channels = in.has_value() ? in->at(1) / groups
      : is_transposed                        ? weight->at(0) / groups
                                             : weight->at(1);
  const auto number = [](int64_t value) { return static_cast<double>(value); };
  return Convolution{
      number(node.bytes) / number(numel(*out)),
      number(groups),
      number(out->front() * groups),
      number(in_channels),
      number(out->at(1) / groups),
      number(kernel),
      number(places),
      in.has_value() ? number(numel(*in)) : 0,
      number(numel(*out)),
      is_transposed,
      has_stride};
}

// By the input, a row and a column are images alike; kernels take several channels together, as if there were some
// more. One of the two goes against the stride, and multiplies by the zeros between.
void add_by_input(const Convolution& of, Work& work) {
  const double channels = (of.in_channels + kSpareChannels) * (of.out_channels + kSpareChannels);
  const PassWork image{
      kBytesOfImages * of.element_bytes * (of.in + of.out), 0, of.batch * channels * of.kernel * of.places};
  const Passage& passage = of.groups > 1 ? kGroups : kOneGroup;
  const double against = of.has_stride ? passage.against_stride : passage.against;
  work.row.add(image.times(of.is_transposed ? passage.along : against));
  work.column.add(image.times(of.is_transposed ? against : passage.along));
}

// By the weight, rows are cotangents by the windows of the input, in one matrix product, or, transposed, windows of the
// cotangents, which are written out, by the input. Columns are one convolution by weights next to one another.
void add_by_weight(const Convolution& of, Work& work) {
  const double multiplications = of.batch * of.in_channels * of.out_channels * of.kernel * of.places;
  const double bytes = of.element_bytes * of.out;
  const double windows = of.element_bytes * of.batch * of.out_channels * of.kernel * of.places;
  const double rows = of.batch > 1 ? kBytesOfRearrangedRows * bytes : kBytesOfRows * bytes;
  work.row.add({of.is_transposed ? kBytesOfWindows * windows : rows, 0, multiplications});
  const double weights = of.element_bytes * of.groups * of.in_channels * of.out_channels * of.kernel;
  const double columns = of.is_transposed ? kBytesOfSpreadColumns * bytes + kBytesOfSpreadWeights * weights
                                          : kBytesOfColumns * bytes + kBytesOfWeights * weights;
  work.column.add({columns, 0, kMultiplicationsOfColumns * multiplications});
}

// Of a Node that multiplies no matrices.
double bytes_of(const tape::Tape& tape, const tape::TapeNode& node, const Costs& costs) {
  double times = costs.times;
  if (node.node->num_inputs() == 1) {
    const int64_t out = tape::numel_of(*node.node, 0).value_or(0);
    for (const tape::Slot& link : links_of(tape, node)) {
      const auto in = link.is_on_tape() ? tape::numel_of(*tape.nodes[link.node].node, link.input_nr) : std::nullopt;
      if (!in.has_value() || out == 0) {
        continue;
      }
      if (costs.kind == Kind::kMovedBytes) {
        times += costs.times * static_cast<double>(*in) / static_cast<double>(out);
      } else if (2 * *in <= out) {
        times += kSummed;
      }
    }
  }
  return times * static_cast<double>(node.bytes);
}

} // namespace

Work work_of(const tape::Tape& tape, const tape::TapeNode& node) {
  const Costs costs = costs_of(*node.node);
  if (costs.kind == Kind::kBytes || costs.kind == Kind::kMovedBytes) {
    const double bytes = bytes_of(tape, node, costs);
    const PassWork row = costs.is_elementwise ? PassWork{0, bytes} : PassWork{bytes};
    return {node.runs ? 1 : 0, row, column_of(row)};
  }
  const auto links = links_of(tape, node);
  if (costs.kind == Kind::kConvolution) {
    Work work{node.runs ? 1 : 0};
    const auto convolution = read_convolution(tape, node);
    if (!convolution.has_value()) {
      work.row.bytes = static_cast<double>(node.bytes);
      work.column = column_of(work.row);
    }
    if (convolution.has_value() && links.at(0).is_on_tape()) {
      add_by_input(*convolution, work);
      work.nodes += kOperatorsOfConvolution;
    }
    if (convolution.has_value() && links.at(1).is_on_tape()) {
      add_by_weight(*convolution, work);
      work.nodes += kOperatorsOfConvolution;
    }
    return work;
  }
  PassWork row{static_cast<double>(node.bytes)};
  const auto out = tape::shape_of(*node.node, 0);
  const auto matrices_of = [](const std::vector<int64_t>& shape) {
    return static_cast<double>(numel({shape.begin(), shape.end() - 2}));
  };
  if (costs.kind == Kind::kMatrices) {
    row.matrices = out.has_value() && out->size() >= 2 ? costs.times * matrices_of(*out) : 0;
    return {node.runs ? 1 : 0, row, row};
  }
  if (costs.kind == Kind::kMatrixExponential) {
    Work work{node.runs ? kOperatorsOfExponential : 0, row, {kBytesOfRecordedExponential * row.bytes}};
    if (out.has_value() && !out->empty()) {
      work.unit_row.bytes = kBytesOfExponential * row.bytes;
      work.most_units = out->back() * out->back();
      work.row.multiplications = static_cast<double>(numel(*out)) * static_cast<double>(work.most_units);
    }
    return work;
  }
  for (size_t operand = 0; operand < 2; ++operand) {
    const tape::Slot& link = links[links.size() - 2 + operand];
    const auto in = shape_at(tape, link);
    if (in.has_value() && out.has_value() && !in->empty()) {
      // [n, m] by the other operand gives [n, k] or [k, m].
      const bool is_vector = in->size() == 1;
      const int64_t inner = operand == 0 || is_vector ? in->back() : (*in)[in->size() - 2];
      row.multiplications += static_cast<double>(numel(*out)) * static_cast<double>(inner);
      // All cotangents are one matrix to multiply with what is on their right, but not with what is on their left.
      row.matrices += operand == 1 && out->size() >= 2 ? matrices_of(*out) : 0;
    }
  }
  return {node.runs ? 1 : 0, row, column_of(row)};
}

PassWork work_of_known_head(const tape::Tape& tape, tape::Slot root) {
  PassWork skipped;
  for (tape::Slot slot = root;;) {
    const tape::TapeNode& node = tape.nodes[slot.node];
    const auto links = links_of(tape, node);
    if (!node.runs || std::count_if(links.begin(), links.end(), [](tape::Slot s) { return s.is_on_tape(); }) != 1) {
      return {};
    }
    const PassWork row = work_of(tape, node).row;
    skipped.add(row);
    if (row.multiplications > 0) {
      const auto out = tape::shape_of(*node.node, 0);
      return out.has_value() && out->size() < 3 && (out->size() < 2 || out->front() == 1) ? skipped : PassWork();
    }
    const std::optional<structure::NodeFacts> facts = structure::facts_of(*node.node);
    if (!facts.has_value() || (facts->flow != structure::Flow::kFlat && facts->flow != structure::Flow::kPointwise)) {
      return {};
    }
    slot = *std::find_if(links.begin(), links.end(), [](tape::Slot s) { return s.is_on_tape(); });
  }
}

double CostModel::pass(const PassWork& work) const {
  return byte * work.bytes + elementwise_byte * work.elementwise_bytes + multiplication * work.multiplications +
      matrix * work.matrices;
}

double CostModel::record(int64_t nodes) const {
  return recording + recorded_node * static_cast<double>(nodes);
}

double CostModel::reverse(const Work& work, int64_t rows) const {
  return node * static_cast<double>(work.nodes) + pass(work.row) * static_cast<double>(rows) +
      pass(work.unit_row) * static_cast<double>(std::min(rows, work.most_units));
}

double CostModel::forward(const Work& work, int64_t rows, int64_t columns) const {
  const double transposed = kBytesOfTransposed * byte * static_cast<double>(rows) * static_cast<double>(columns);
  return record(work.nodes) + pass(work.column) * static_cast<double>(columns + 1) + transposed;
}

double CostModel::product(int64_t rows, int64_t inner, int64_t columns) const {
  const double result = static_cast<double>(rows) * static_cast<double>(columns);
  return kOperatorsOfProduct * node + result * (multiplication * static_cast<double>(inner) + 8 * byte);
}

const CostModel& cost_model(c10::Device device, bool needs_engine) {
  return !device.is_cpu() ? kAccelerator : needs_engine ? kCpu : kCpuWithoutEngine;
}

} // namespace highgrad::plan
