#include "taylor/contraction.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <utility>

#include "engine/batched_vjp.h"
#include "engine/failure.h"
#include "tape/node_rules.h"
#include "taylor/polynomials.h"
#include "taylor/rule.h"

namespace highgrad::taylor {
namespace {

using torch::autograd::Edge;
using torch::autograd::edge_list;
using torch::autograd::Node;

// Whether an operation is linear in those of its inputs that depend on wrt together.
bool is_linear(const tape::Tape& tape, const tape::TapeNode& node) {
  std::vector<int64_t> degrees;
  for (const tape::Slot& link : tape::links_of(tape, node)) {
    degrees.push_back(link.is_on_tape() ? 1 : 0);
  }
  return find_rule(*node.node)->degree(*node.node, degrees) <= 1;
}

// [rows, *shape] of a tensor whose dimensions of size 1 may stand for others: [rows, samples, elements].
at::Tensor by_sample(const at::Tensor& rows, at::IntArrayRef shape, int64_t samples) {
  c10::DimVector whole{rows.size(0)};
  whole.append(shape.begin(), shape.end());
  return align(rows, static_cast<int64_t>(shape.size())).expand(whole).reshape({rows.size(0), samples, -1});
}

// Adds a * b, of matrices in batches.
void accumulate(at::Tensor& total, const at::Tensor& a, const at::Tensor& b) {
  if (!total.defined()) {
    total = at::bmm(a, b);
  } else if (at::GradMode::is_enabled()) {
    total = at::baddbmm(total, a, b);
  } else {
    total.baddbmm_(a, b);
  }
}

// The products of batched_vjp, for Nodes that must not be batched.
std::vector<at::Tensor> one_by_one(
    const edge_list& root,
    const at::Tensor& seeds,
    const edge_list& edges,
    engine::SweepOptions sweep) {
  std::vector<std::vector<at::Tensor>> rows(edges.size());
  for (const at::Tensor& seed : seeds.unbind()) {
    const std::vector<at::Tensor> found = engine::single_vjp(root, {seed}, edges, sweep);
    for (const auto i : c10::irange(edges.size())) {
      rows[i].push_back(found[i]);
    }
  }
  std::vector<at::Tensor> products(edges.size());
  for (const auto i : c10::irange(edges.size())) {
    const auto any = std::find_if(rows[i].begin(), rows[i].end(), [](const at::Tensor& row) { return row.defined(); });
    if (any == rows[i].end()) {
      continue;
    }
    const at::Tensor zeros = at::zeros_like(*any);
    for (at::Tensor& row : rows[i]) {
      row = row.defined() ? row : zeros;
    }
    products[i] = at::cat(rows[i]);
  }
  return products;
}

} // namespace

bool contracts(const tape::Tape& tape) {
  return std::all_of(tape.nodes.begin(), tape.nodes.end(), [&](const tape::TapeNode& node) {
    return !node.runs || find_rule(*node.node)->contracts || is_linear(tape, node);
  });
}

void mark_contracting_rules(RuleTable& table) {
  using namespace torch::autograd::generated;
  // Norms do multiply out, but for one number of many.
  for (const std::type_index& type :
       std::initializer_list<std::type_index>{typeid(AcosBackward0),       typeid(AcoshBackward0),
                                              typeid(AsinBackward0),       typeid(AsinhBackward0),
                                              typeid(AtanBackward0),       typeid(AtanhBackward0),
                                              typeid(CosBackward0),        typeid(CoshBackward0),
                                              typeid(ErfBackward0),        typeid(ErfcBackward0),
                                              typeid(Exp2Backward0),       typeid(ExpBackward0),
                                              typeid(Expm1Backward0),      typeid(GeluBackward0),
                                              typeid(Log10Backward0),      typeid(Log1PBackward0),
                                              typeid(Log2Backward0),       typeid(LogBackward0),
                                              typeid(LogSigmoidBackward0), typeid(LinalgVectorNormBackward0),
                                              typeid(MulBackward0),        typeid(NativeLayerNormBackward0),
                                              typeid(NormBackward0),       typeid(NormBackward1),
                                              typeid(SigmoidBackward0),    typeid(SiluBackward0),
                                              typeid(SinBackward0),        typeid(SinhBackward0),
                                              typeid(SoftplusBackward0),   typeid(TanBackward0),
                                              typeid(TanhBackward0)}) {
    table.at(type).contracts = true;
  }
}

Contraction::Contraction(const Frame& frame, const tape::Tape& tape, const at::Tensor& output, int64_t samples)
    : frame_(frame), samples_(samples), outputs_(output.numel() / samples), pairs_(frame.order / 2 + 1) {
  edge_list edges;
  for (const tape::TapeNode& node : tape.nodes) {
    if (node.runs && !is_linear(tape, node)) {
      for (const auto k : c10::irange(node.node->num_inputs())) {
        edges.emplace_back(node.node->getptr(), k);
      }
    }
  }
  if (edges.empty()) {
    return;
  }
  // One element of every sample at a time: samples are independent.
  const at::TensorOptions options = output.options();
  const edge_list root{torch::autograd::impl::gradient_edge(output)};
  const engine::SweepOptions sweep{/*keep_graph=*/true, at::GradMode::is_enabled()};
  std::vector<at::Tensor> found;
  if (outputs_ == 1) {
    found = engine::single_vjp(root, {at::ones(output.sizes(), options)}, edges, sweep);
  } else {
    c10::DimVector shape{outputs_};
    shape.append(output.sizes().begin(), output.sizes().end());
    const at::Tensor seeds =
        at::eye(outputs_, options).unsqueeze(1).expand({outputs_, samples, outputs_}).reshape(shape);
    const bool trusted = std::all_of(tape.nodes.begin(), tape.nodes.end(), [](const tape::TapeNode& node) {
      return tape::distrust_of(*node.node, [](size_t) { return true; }) != tape::Distrust::kValues;
    });
    std::exception_ptr failure;
    try {
      found = trusted ? engine::batched_vjp(root, {seeds}, edges, sweep) : one_by_one(root, seeds, edges, sweep);
    } catch (...) {
      failure = std::current_exception();
    }
    if (failure != nullptr) {
      if (engine::judge_failure(failure) != engine::Failure::kOther) {
        std::rethrow_exception(failure);
      }
      throw Unsupported("torch cannot batch the cotangents");
    }
  }
  for (const auto i : c10::irange(edges.size())) {
    auto& cotangents = cotangents_[edges[i].function.get()];
    cotangents.resize(edges[i].input_nr + 1);
    cotangents[edges[i].input_nr] = found[i].defined() ? found[i].to(frame.dtype) : found[i];
  }
}

void Contraction::take_highest(Node& node, std::vector<Jet>& jets) {
  const auto entry = cotangents_.find(&node);
  for (const auto k : c10::irange(jets.size())) {
    Jet& jet = jets[k];
    if (entry != cotangents_.end() && entry->second[k].defined()) {
      const std::vector<int64_t> shape = shape_of(node, k);
      const at::Tensor& cotangent = entry->second[k];
      for (const Product& product : jet.products) {
        add(product, cotangent, shape);
      }
      if (jet.terms == frame_.order) {
        const at::Tensor rest = by_sample(coefficient(frame_, jet, frame_.order), shape, samples_);
        accumulate(rest_, rest.transpose(0, 1), by_sample(cotangent, shape, samples_).permute({1, 2, 0}));
      }
    }
    jet.products.clear();
    if (jet.terms == frame_.order) {
      jet.terms -= 1;
      jet.rows = jet.terms == 0 ? at::Tensor() : jet.rows.narrow(0, 0, frame_.rows(jet.terms));
    }
  }
}

void Contraction::add(const Product& product, const at::Tensor& cotangent, at::IntArrayRef shape) {
  const bool swapped = 2 * product.order_a > frame_.order;
  const int64_t j = swapped ? frame_.order - product.order_a : product.order_a;
  const at::Tensor a = by_sample(swapped ? product.b : product.a, shape, samples_);
  const at::Tensor b = by_sample(swapped ? product.a : product.b, shape, samples_);
  at::Tensor factor = cotangent;
  if (product.weight.defined()) {
    factor = factor * product.weight;
  }
  if (product.factor != 1) {
    factor = factor * product.factor;
  }
  factor = by_sample(factor, shape, samples_);
  // [samples, outputs, rows, elements]
  const at::Tensor weighted = a.transpose(0, 1).unsqueeze(1) * factor.transpose(0, 1).unsqueeze(2);
  accumulate(pairs_[j], weighted.flatten(1, 2), b.permute({1, 2, 0}));
}

at::Tensor Contraction::take() {
  at::Tensor total = rest_.defined() ? rest_.transpose(1, 2) : rest_;
  for (const auto j : c10::irange<int64_t>(1, static_cast<int64_t>(pairs_.size()))) {
    if (pairs_[j].defined()) {
      const at::Tensor pairs = pairs_[j].reshape({samples_ * outputs_, -1}).t();
      const at::Tensor folded = fold_pairs(*frame_.monomials, j, frame_.order - j, pairs).t();
      const at::Tensor sums = folded.reshape({samples_, outputs_, folded.size(1)});
      total = total.defined() ? total + sums : sums;
    }
  }
  return total;
}

} // namespace highgrad::taylor
