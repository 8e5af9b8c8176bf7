// Part of the Python module: Taylor coefficients. No logic: names and conversions.

#include "taylor_bindings.h"

#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/utils/pybind.h>

#include <tuple>
#include <utility>
#include <variant>

#include "callers_modes.h"
#include "engine/check_arguments.h"
#include "engine/samples_apart.h"
#include "plan/chunking.h"
#include "sweep_bindings.h"
#include "tape/edges.h"
#include "tape/node_rules.h"
#include "tape/tape.h"
#include "taylor/coefficients.h"
#include "taylor/gradients.h"
#include "taylor/jet.h"

namespace py = pybind11;

namespace highgrad {
namespace {

using Tensors = std::vector<at::Tensor>;
using OptionalTensors = std::vector<std::optional<at::Tensor>>;

// The fields of Outlook.
using OutlookTuple = std::tuple<int64_t, std::vector<bool>, std::string, bool, int64_t, int64_t, bool, int64_t>;

std::vector<OutlookTuple> inspect(const Tensors& outputs, const Tensors& inputs) {
  std::vector<OutlookTuple> outlooks;
  for (taylor::Outlook& outlook : taylor::inspect(outputs, inputs)) {
    outlooks.emplace_back(
        outlook.degree,
        std::move(outlook.reaches),
        std::move(outlook.obstacle),
        outlook.regular,
        outlook.bytes_per_row,
        outlook.all_bytes_per_row,
        outlook.contracts,
        outlook.nested_orders);
  }
  return outlooks;
}

Tensors seeds_of(const OptionalTensors& directions) {
  Tensors seeds;
  for (const auto& direction : directions) {
    seeds.push_back(direction.value_or(at::Tensor()));
  }
  return seeds;
}

// The coefficients, or the reason why jets do not serve.
std::variant<OptionalTensors, std::string> coefficients(
    const Tensors& outputs,
    const Tensors& inputs,
    const OptionalTensors& directions,
    int64_t order,
    bool collapsed,
    const std::optional<at::Tensor>& weights,
    bool in_double,
    bool create_graph,
    const std::vector<int64_t>& counts,
    const std::vector<std::vector<std::vector<int32_t>>>& monomials) {
  const Tensors seeds = seeds_of(directions);
  OptionalTensors results;
  try {
    for (at::Tensor& tensor : taylor::coefficients(
             outputs,
             inputs,
             seeds,
             {order, collapsed, weights.value_or(at::Tensor()), in_double, create_graph, counts, monomials})) {
      results.push_back(tensor.defined() ? std::optional<at::Tensor>(std::move(tensor)) : std::nullopt);
    }
  } catch (const taylor::Unsupported& unsupported) {
    return unsupported.what();
  }
  return results;
}

// Packed partial derivatives, None where all are zero, or the reason why jets do not serve.
std::variant<std::optional<at::Tensor>, std::string> partials(
    const at::Tensor& output,
    const Tensors& inputs,
    int64_t batch_dims,
    int64_t order,
    bool contracted,
    bool create_graph) {
  try {
    const at::Tensor packed = taylor::partials(output, inputs, batch_dims, order, contracted, create_graph);
    return packed.defined() ? std::optional<at::Tensor>(packed) : std::nullopt;
  } catch (const taylor::Unsupported& unsupported) {
    return unsupported.what();
  }
}

// The custom Functions, as Python sees them, that `output` depends on the inputs through.
py::list custom_functions(const at::Tensor& output, const Tensors& inputs) {
  py::list functions;
  for (const tape::TapeNode& node : tape::read_tape(tape::edge_of(output), tape::edges_of(inputs)).nodes) {
    if (node.runs && tape::is_custom(*node.node)) {
      functions.append(py::reinterpret_steal<py::object>(torch::autograd::functionToPyObject(node.node->getptr())));
    }
  }
  return functions;
}

engine::JacobianOptions options_of_gradients(int64_t batch_dims, bool create_graph) {
  engine::JacobianOptions options;
  options.caller = "nested derivatives";
  options.create_graph = create_graph;
  options.batch_dims = batch_dims;
  return options;
}

std::optional<Tensors> first_partials(
    const Tensors& outputs,
    const Tensors& inputs,
    const std::vector<int64_t>& variables,
    int64_t batch_dims,
    bool create_graph) {
  return call_sweeps(options_of_gradients(batch_dims, create_graph), py::none(), [&](const auto& options) {
    return taylor::first_partials(outputs, inputs, variables, options);
  });
}

std::optional<Tensors> first_along(
    const Tensors& outputs,
    const Tensors& inputs,
    const OptionalTensors& directions,
    int64_t batch_dims,
    bool create_graph) {
  return call_sweeps(options_of_gradients(batch_dims, create_graph), py::none(), [&](const auto& options) {
    return taylor::first_along(outputs, inputs, seeds_of(directions), options);
  });
}

std::optional<Tensors> sample_jacobians(
    const Tensors& outputs,
    const Tensors& inputs,
    int64_t batch_dims,
    bool create_graph) {
  return call_sweeps(options_of_gradients(batch_dims, create_graph), py::none(), [&](const auto& options) {
    return taylor::sample_jacobians(outputs, inputs, options);
  });
}

void check_samples_apart(const std::string& caller, const Tensors& outputs, const Tensors& inputs, int64_t batch_dims) {
  engine::check_samples_apart(caller, outputs, inputs, batch_dims);
}

int64_t automatic_chunk_size(int64_t rows, int64_t bytes_per_row, const at::Tensor& like) {
  return plan::automatic_chunk_size(rows, bytes_per_row, like.device());
}

void check_arguments(
    const std::string& caller,
    const Tensors& outputs,
    const Tensors& inputs,
    bool create_graph,
    std::optional<int64_t> chunk_size) {
  engine::check_arguments(caller, outputs, inputs, create_graph, chunk_size, std::nullopt);
  engine::check_versions(caller, outputs, inputs);
}

} // namespace

void bind_taylor(py::module_& m) {
  m.def(
      "taylor_inspect",
      torch::wrap_pybind_function(&inspect),
      py::call_guard<CallersModes>(),
      py::arg("outputs"),
      py::arg("inputs"));
  m.def(
      "taylor_coefficients",
      torch::wrap_pybind_function_no_gil(&coefficients),
      py::call_guard<CallersModes>(),
      py::arg("outputs"),
      py::arg("inputs"),
      py::arg("directions"),
      py::arg("order"),
      py::arg("collapsed"),
      py::arg("weights"),
      py::arg("in_double"),
      py::arg("create_graph"),
      py::arg("counts") = std::vector<int64_t>(),
      py::arg("monomials") = std::vector<std::vector<std::vector<int32_t>>>());
  m.def(
      "taylor_partials",
      torch::wrap_pybind_function_no_gil(&partials),
      py::call_guard<CallersModes>(),
      py::arg("output"),
      py::arg("inputs"),
      py::arg("batch_dims"),
      py::arg("order"),
      py::arg("contracted"),
      py::arg("create_graph"));
  m.def(
      "first_partials",
      &first_partials,
      py::call_guard<CallersModes>(),
      py::arg("outputs"),
      py::arg("inputs"),
      py::arg("variables"),
      py::arg("batch_dims"),
      py::arg("create_graph"));
  m.def(
      "first_along",
      &first_along,
      py::call_guard<CallersModes>(),
      py::arg("outputs"),
      py::arg("inputs"),
      py::arg("directions"),
      py::arg("batch_dims"),
      py::arg("create_graph"));
  m.def(
      "sample_jacobians",
      &sample_jacobians,
      py::call_guard<CallersModes>(),
      py::arg("outputs"),
      py::arg("inputs"),
      py::arg("batch_dims"),
      py::arg("create_graph"));
  m.def(
      "keeps_samples_apart",
      torch::wrap_pybind_function_no_gil(&taylor::keeps_samples_apart),
      py::call_guard<CallersModes>(),
      py::arg("outputs"),
      py::arg("inputs"),
      py::arg("count"),
      py::arg("everywhere") = false);
  m.def(
      "check_samples_apart",
      torch::wrap_pybind_function_no_gil(&check_samples_apart),
      py::call_guard<CallersModes>(),
      py::arg("caller"),
      py::arg("outputs"),
      py::arg("inputs"),
      py::arg("batch_dims"));
  m.def("custom_functions", torch::wrap_pybind_function(&custom_functions), py::arg("output"), py::arg("inputs"));
  m.def(
      "automatic_chunk_size",
      torch::wrap_pybind_function(&automatic_chunk_size),
      py::arg("rows"),
      py::arg("bytes_per_row"),
      py::arg("like"));
  m.def(
      "check_arguments",
      torch::wrap_pybind_function(&check_arguments),
      py::arg("caller"),
      py::arg("outputs"),
      py::arg("inputs"),
      py::arg("create_graph"),
      py::arg("chunk_size"));
}

} // namespace highgrad
