#include "engine/layer_parameters.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/im2col.h>
#include <ATen/ops/mul.h>
#include <c10/util/accumulate.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/anomaly_mode.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <functional>
#include <tuple>
#include <typeindex>
#include <unordered_map>
#include <utility>

#include "ops/joined_shape.h"
#include "structure/axes.h"
#include "tape/plain_tensor.h"
#include "vjp/rule.h"

namespace highgrad::engine {
namespace {

using namespace torch::autograd::generated;
using tape::Slot;
using tape::Tape;
using torch::autograd::Node;
using Shape = std::vector<int64_t>;

// From the cotangents of a layer's output, [samples, colors, *rest of the output], to those of its parameter,
// [samples, colors, *parameter.shape].
using ParameterRows = std::function<at::Tensor(const at::Tensor&)>;

// A link to a tensor: the Node's position, and which of its links it is.
struct Source {
  int32_t node;
  size_t link;
};

// The links to each tensor that is its Node's first.
class Sources {
 public:
  explicit Sources(const Tape& tape) : links_(tape.nodes.size()) {
    for (const auto i : c10::irange(tape.nodes.size())) {
      const auto links = links_of(tape, tape.nodes[i]);
      for (const auto k : c10::irange(links.size())) {
        if (links[k].is_on_tape() && links[k].input_nr == 0) {
          links_[links[k].node].push_back({static_cast<int32_t>(i), k});
        }
      }
    }
  }

  const std::vector<Source>& of(int32_t node) const {
    return links_[node];
  }

 private:
  std::vector<std::vector<Source>> links_;
};

// Raises vjp::Unserved where unpacking calls a user's hook, and for sparse matrices.
at::Tensor saved(Node& node, const torch::autograd::SavedVariable& variable) {
  if (variable.has_hooks()) {
    throw vjp::Unserved("a saved tensor has hooks");
  }
  const at::Tensor tensor = variable.unpack(node.getptr());
  if (tensor.defined() && tensor.layout() != at::kStrided) {
    throw vjp::Unserved("a saved tensor is not strided");
  }
  return at::GradMode::is_enabled() || !tensor.defined() ? tensor : tensor.detach();
}

// [samples, colors, t, h] and features [samples * t, d]: [samples, colors, h, d], or its transpose [.., d, h].
at::Tensor products(const at::Tensor& cotangents, const at::Tensor& features, bool transposed) {
  const int64_t samples = cotangents.size(0), colors = cotangents.size(1), h = cotangents.size(3);
  const int64_t d = features.size(1);
  const at::Tensor x = features.reshape({samples, -1, d});
  if (x.size(1) == 1 && transposed) {
    return at::mul(x.view({samples, 1, d, 1}), cotangents);
  }
  if (x.size(1) == 1) {
    return at::mul(cotangents.transpose(2, 3), x.view({samples, 1, 1, d}));
  }
  const at::Tensor rows = cotangents.transpose(2, 3).reshape({samples, colors * h, -1}).bmm(x);
  const at::Tensor blocks = rows.view({samples, colors, h, d});
  return transposed ? blocks.transpose(2, 3) : blocks;
}

ParameterRows weight_rows(const at::Tensor& features, const at::Scalar& alpha, bool transposed) {
  const at::Tensor x = alpha.equal(1) ? features : at::mul(features, alpha);
  return [x, transposed](const at::Tensor& cotangents) {
    const int64_t h = cotangents.size(-1);
    return products(cotangents.reshape({cotangents.size(0), cotangents.size(1), -1, h}), x, transposed);
  };
}

// Of a vector that the rows of a matrix are multiplied by.
ParameterRows vector_rows(const at::Tensor& features, const at::Scalar& alpha) {
  return [rows = weight_rows(features, alpha, /*transposed=*/false)](const at::Tensor& cotangents) {
    return rows(cotangents.unsqueeze(-1)).squeeze(2);
  };
}

// A layer's output: [runs * samples * own, *rest]. The coefficients of a jet, one after another, are runs of samples.
struct Output {
  int64_t runs, samples;
  Shape shape;

  // `tensor`, whose first dimensions are those of `front`, then the output's first, then others: with the samples
  // apart, and before all else that the output's first dimension has.
  at::Tensor split(const at::Tensor& tensor, const Shape& front, at::IntArrayRef rest) const {
    const int64_t own = shape[0] / samples / runs;
    const auto at = static_cast<int64_t>(front.size());
    Shape sizes = ops::joined_shape(ops::joined_shape(front, {runs, samples, own}), rest);
    const at::Tensor apart = tensor.reshape(sizes).transpose(at, at + 1).flatten(at + 1, at + 2);
    return runs * own > 1 ? apart : apart.squeeze(at + 1);
  }

  at::IntArrayRef rest() const {
    return at::IntArrayRef(shape).slice(1);
  }
};

// A place where the tape takes a parameter, or its transpose.
struct Use {
  size_t parameter;
  Source source;
  bool transposed;
};

// What it adds to the rows of the parameter. number: of the output among all outputs of layers.
struct Layer {
  size_t parameter, number;
  Output output;
  ParameterRows rows;
};

// Whether what is broadcast to a layer's output has samples of its own.
bool has_samples(const Shape& shape, const Shape& output) {
  return shape.size() == output.size() && shape[0] != 1;
}

// Of what is multiplied by `factor`, if that is defined, and broadcast from `shape`, over the samples too. Null where
// the samples have parameters of their own.
ParameterRows broadcast_rows(const Output& output, Shape shape, at::Tensor factor, const at::Scalar& alpha) {
  if (has_samples(shape, output.shape)) {
    return nullptr;
  }
  const Shape whole = shape;
  if (shape.size() == output.shape.size()) {
    shape.erase(shape.begin());
  }
  if (factor.defined() && factor.dim() == static_cast<int64_t>(output.shape.size())) {
    factor = output.split(factor.expand(output.shape), {}, output.rest()).unsqueeze(1);
  }
  return [whole, shape, factor, alpha](const at::Tensor& cotangents) {
    at::Tensor rows = factor.defined() ? at::mul(cotangents, factor) : cotangents;
    rows = vjp::sum_broadcast(rows, 2, shape);
    rows = rows.reshape(ops::joined_shape(rows.sizes().slice(0, 2), whole));
    return alpha.equal(1) ? rows : at::mul(rows, alpha);
  };
}

// The parameter that a link of the Node leads to, of shape `shape`; without rows where it is none.
class Layers {
 public:
  Layers(Node& node, size_t link, Shape shape, Output output)
      : node_(node), link_(link), shape_(std::move(shape)), output_(std::move(output)) {}

  // Whether the Node may be a layer with such a parameter: one that it broadcasts has no samples of its own.
  static bool may_have(const Node& node, const Shape& parameter, const Shape& output) {
    const auto row = rows_by_node().find(typeid(node));
    return row != rows_by_node().end() && !(row->second.broadcasts && has_samples(parameter, output));
  }

  // `transposed`: of a weight whose transpose the Node multiplies by.
  ParameterRows rows(bool transposed) const {
    const auto row = rows_by_node().find(typeid(node_));
    if (row == rows_by_node().end() || (transposed && !row->second.takes_transpose)) {
      return nullptr;
    }
    return (this->*row->second.rows)(transposed);
  }

 private:
  struct NodeRow {
    ParameterRows (Layers::*rows)(bool transposed) const;
    bool broadcasts = false; // what it takes, wherever that is
    bool takes_transpose = false;
  };

  static const std::unordered_map<std::type_index, NodeRow>& rows_by_node() {
    static const std::unordered_map<std::type_index, NodeRow> rows{
        {typeid(MmBackward0), {&Layers::mm, false, true}},
        {typeid(AddmmBackward0), {&Layers::addmm, false, true}},
        {typeid(MvBackward0), {&Layers::mv}},
        {typeid(AddmvBackward0), {&Layers::addmv}},
        {typeid(AddBackward0), {&Layers::add, true}},
        {typeid(SubBackward0), {&Layers::sub, true}},
        {typeid(MulBackward0), {&Layers::mul, true}},
        {typeid(NativeLayerNormBackward0), {&Layers::layer_norm}},
        {typeid(ConvolutionBackward0), {&Layers::convolution}}};
    return rows;
  }

  template <typename T>
  const T& node() const {
    return static_cast<const T&>(node_);
  }

  ParameterRows mm(bool transposed) const {
    return link_ == 1 ? weight_rows(features(node<MmBackward0>().self_), 1, !transposed) : nullptr;
  }

  ParameterRows addmm(bool transposed) const {
    const auto& addmm = node<AddmmBackward0>();
    if (link_ == 2) {
      return weight_rows(features(addmm.mat1_), addmm.alpha, !transposed);
    }
    return link_ == 0 && !transposed ? broadcast_rows(output_, shape_, {}, addmm.beta) : nullptr;
  }

  ParameterRows mv(bool /*transposed*/) const {
    return link_ == 1 ? vector_rows(features(node<MvBackward0>().self_), 1) : nullptr;
  }

  ParameterRows addmv(bool /*transposed*/) const {
    const auto& addmv = node<AddmvBackward0>();
    return link_ == 2 ? vector_rows(features(addmv.mat_), addmv.alpha) : nullptr;
  }

  ParameterRows add(bool /*transposed*/) const {
    return broadcast_rows(output_, shape_, {}, link_ == 0 ? at::Scalar(1) : node<AddBackward0>().alpha);
  }

  ParameterRows sub(bool /*transposed*/) const {
    return broadcast_rows(output_, shape_, {}, link_ == 0 ? at::Scalar(1) : -node<SubBackward0>().alpha);
  }

  ParameterRows mul(bool /*transposed*/) const {
    const auto& mul = node<MulBackward0>();
    return broadcast_rows(output_, shape_, saved(node_, link_ == 0 ? mul.other_ : mul.self_), 1);
  }

  ParameterRows layer_norm(bool /*transposed*/) const {
    if (link_ == 2) {
      return broadcast_rows(output_, shape_, {}, 1);
    }
    return link_ == 1 ? norm_rows(node<NativeLayerNormBackward0>()) : nullptr;
  }

  ParameterRows convolution(bool /*transposed*/) const {
    return convolution_rows(node<ConvolutionBackward0>());
  }

  // A matrix of as many rows as the output has: [samples * .., columns].
  at::Tensor features(const torch::autograd::SavedVariable& variable) const {
    const at::Tensor matrix = saved(node_, variable);
    return output_.split(matrix, {}, {matrix.size(1)}).reshape({-1, matrix.size(1)});
  }

  // Of the weight of a layer norm. The mean and the deviation that it saved carry no graph.
  ParameterRows norm_rows(const NativeLayerNormBackward0& norm) const {
    const at::Tensor input = saved(node_, norm.input_);
    const at::Tensor saved_mean = saved(node_, norm.result1_);
    const at::Tensor saved_inverse = saved(node_, norm.result2_);
    std::vector<int64_t> dims;
    for (auto dim = -static_cast<int64_t>(norm.normalized_shape.size()); dim < 0; ++dim) {
      dims.push_back(dim);
    }
    return [=, output = output_, shape = shape_](const at::Tensor& cotangents) {
      at::Tensor mean = saved_mean;
      at::Tensor inverse = saved_inverse;
      if (at::GradMode::is_enabled()) {
        std::tie(mean, inverse) = vjp::recorded_statistics(input, dims, saved_inverse);
      }
      return broadcast_rows(output, shape, (input - mean) * inverse, 1)(cotangents);
    };
  }

  ParameterRows convolution_rows(const ConvolutionBackward0& convolution) const {
    const size_t spatial = output_.shape.size() - 2;
    if (link_ == 2) {
      Shape channels(spatial + 1, 1);
      channels[0] = shape_[0];
      return [rows = broadcast_rows(output_, channels, {}, 1), shape = shape_](const at::Tensor& cotangents) {
        return rows(cotangents).reshape(ops::joined_shape(cotangents.sizes().slice(0, 2), shape));
      };
    }
    if (link_ != 1 || output_.shape[0] != output_.samples || convolution.transposed || convolution.groups != 1 ||
        spatial < 1 || spatial > 2) {
      return nullptr;
    }
    at::Tensor input = saved(node_, convolution.input_);
    Shape kernel(shape_.begin() + 2, shape_.end());
    Shape dilation = vjp::to_ints(convolution.dilation), padding = vjp::to_ints(convolution.padding),
          stride = vjp::to_ints(convolution.stride);
    if (spatial == 1) {
      input = input.unsqueeze(2);
      kernel.insert(kernel.begin(), 1);
      dilation.insert(dilation.begin(), 1);
      padding.insert(padding.begin(), 0);
      stride.insert(stride.begin(), 1);
    }
    return [=, shape = shape_](const at::Tensor& cotangents) {
      const at::Tensor patches = at::im2col(input, kernel, dilation, padding, stride); // [samples, patch, places]
      const int64_t samples = cotangents.size(0), colors = cotangents.size(1), channels = cotangents.size(2);
      return cotangents.reshape({samples, colors * channels, -1})
          .bmm(patches.transpose(1, 2))
          .view(ops::joined_shape({samples, colors}, shape));
    };
  }

  Node& node_;
  size_t link_;
  Shape shape_;
  Output output_;
};

bool has_no_hooks(const Tape& tape, int32_t node) {
  return tape::is_vjp_linear(*tape.nodes[node].node);
}

// Appends the uses of the tensor that the Node at `node` takes. Returns false where one cannot be a layer's.
bool add_uses(
    const Tape& tape,
    const Sources& sources,
    int32_t node,
    int64_t samples,
    bool transposed,
    size_t parameter,
    std::vector<Use>& uses) {
  for (const Source& source : sources.of(node)) {
    Node& user = *tape.nodes[source.node].node;
    if (!has_no_hooks(tape, source.node)) {
      return false;
    }
    if (dynamic_cast<TBackward0*>(&user) != nullptr) {
      if (!add_uses(tape, sources, source.node, samples, !transposed, parameter, uses)) {
        return false;
      }
      continue;
    }
    // Of complex layers the products are by conjugates, and those of a real parameter are cut to their real part.
    if (user.num_inputs() == 0 || !at::isFloatingType(c10::typeMetaToScalarType(user.input_metadata(0).dtype())) ||
        !tape::takes_dtype(user, user.input_metadata(0).dtype())) {
      return false;
    }
    const auto shape = tape::shape_of(user, 0);
    const auto taken = tape::shape_of(*tape.nodes[node].node, 0);
    if (!shape.has_value() || shape->empty() || (*shape)[0] % samples != 0 || !taken.has_value() ||
        !Layers::may_have(user, *taken, *shape)) {
      return false;
    }
    uses.push_back({parameter, source, transposed});
  }
  return true;
}

ParameterRows rows_of(const Tape& tape, const Use& use, const Shape& shape, const Output& output) {
  const Layers layers(*tape.nodes[use.source.node].node, use.source.link, shape, output);
  try {
    return layers.rows(use.transposed);
  } catch (const vjp::Unserved&) {
    return nullptr;
  }
}

// What takes the inputs, and the outputs of all that does, each once.
struct Found {
  std::vector<Layer> layers; // by use
  torch::autograd::edge_list outputs;
};

std::optional<Found> find(const OutputProblem& problem) {
  const Tape& tape = problem.tape;
  if (problem.output.dim() == 0 || problem.output.size(0) < 2 || problem.output.numel() == 0 ||
      problem.inputs.empty() || torch::autograd::AnomalyMode::is_enabled()) {
    return std::nullopt;
  }
  if (!tape::is_plain(problem.output) || !std::all_of(problem.inputs.begin(), problem.inputs.end(), tape::is_plain)) {
    return std::nullopt;
  }
  const int64_t samples = problem.output.size(0);
  const Sources sources(tape);
  std::vector<Use> uses;
  for (const auto j : c10::irange(problem.slots.size())) {
    const Slot& slot = problem.slots[j];
    const size_t before = uses.size();
    if (slot.input_nr != 0 || tape.nodes[slot.node].runs || !has_no_hooks(tape, slot.node) ||
        !add_uses(tape, sources, slot.node, samples, /*transposed=*/false, j, uses) || uses.size() == before) {
      return std::nullopt;
    }
  }
  Found found;
  std::vector<size_t> output_of; // each use
  std::unordered_map<int32_t, size_t> positions;
  for (const Use& use : uses) {
    const auto [position, is_new] = positions.emplace(use.source.node, found.outputs.size());
    if (is_new) {
      found.outputs.push_back({tape.nodes[use.source.node].node->getptr(), 0});
    }
    output_of.push_back(position->second);
  }
  const torch::autograd::Edge output{
      tape.nodes[tape.output.node].node->getptr(), static_cast<uint32_t>(tape.output.input_nr)};
  const auto axes = structure::analyze_axes(tape::read_tape(output, found.outputs));
  if (!axes.has_value() || !axes->is_known) {
    return std::nullopt;
  }
  const int64_t rest = problem.output.numel() / samples;
  for (const auto i : c10::irange(uses.size())) {
    const Slot& slot = problem.slots[uses[i].parameter];
    const Shape shape = *tape::shape_of(*tape.nodes[uses[i].source.node].node, 0);
    const auto runs = structure::runs_of_samples(
        axes->inputs[output_of[i]].upper, samples, rest, c10::multiply_integers(shape) / samples);
    const auto of_parameter = tape::shape_of(*tape.nodes[slot.node].node, slot.input_nr);
    if (!runs.has_value() || !of_parameter.has_value() || shape[0] % (*runs * samples) != 0) {
      return std::nullopt;
    }
    const Output of_layer{*runs, samples, shape};
    ParameterRows rows = rows_of(tape, uses[i], *of_parameter, of_layer);
    if (!rows) {
      return std::nullopt;
    }
    found.layers.push_back({uses[i].parameter, output_of[i], of_layer, std::move(rows)});
  }
  return found;
}

} // namespace

std::optional<int64_t> samples_of_layers(const OutputProblem& problem) {
  return find(problem).has_value() ? std::optional(problem.output.size(0)) : std::nullopt;
}

bool run_layer_parameters(
    const OutputProblem& problem,
    const std::vector<JacobianBlock*>& blocks,
    const CompressedSweeps& sweeps) {
  const auto found = find(problem);
  if (!found.has_value()) {
    return false;
  }
  const int64_t samples = problem.output.size(0);
  const int64_t colors = problem.output.numel() / samples;
  structure::Coloring coloring{{}, colors};
  for (const auto row : c10::irange(problem.output.numel())) {
    coloring.colors.push_back(row % colors);
  }
  const LinearMap map{
      {problem.output},
      {problem.output.numel()},
      found->outputs,
      {},
      problem.tape.peak_bytes_per_row,
      problem.tape.distrust,
      &problem.tape};
  const std::vector<at::Tensor> cotangents = sweep_colors(map, coloring, sweeps);
  std::vector<at::Tensor> totals(blocks.size());
  for (const Layer& layer : found->layers) {
    const at::Tensor& of_layer = cotangents[layer.number];
    if (of_layer.defined()) {
      const at::Tensor apart = layer.output.split(of_layer, {colors}, layer.output.rest());
      const at::Tensor rows = layer.rows(apart.transpose(0, 1).contiguous());
      at::Tensor& total = totals[layer.parameter];
      total = total.defined() ? at::add(total, rows) : rows;
    }
  }
  for (const auto j : c10::irange(blocks.size())) {
    if (totals[j].defined()) {
      totals[j] = totals[j].reshape(ops::joined_shape(problem.output.numel(), problem.inputs[j].sizes()));
    }
    blocks[j]->append(problem.output.numel(), std::move(totals[j]));
  }
  return true;
}

} // namespace highgrad::engine
