// Part of the Python module: sweeps by rules. No logic: names and conversions.

#include "vjp_bindings.h"

#include <ATen/core/grad_mode.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <utility>
#include <vector>

#include "tape/tape.h"
#include "vjp/program.h"

namespace py = pybind11;

namespace highgrad {
namespace {

// None where the tape has a Node without a rule.
std::optional<std::vector<std::optional<at::Tensor>>> program_vjp(
    const at::Tensor& output,
    const at::Tensor& cotangents,
    const std::vector<at::Tensor>& inputs,
    bool create_graph) {
  std::optional<std::vector<std::optional<at::Tensor>>> rows;
  HANDLE_TH_ERRORS
  const py::gil_scoped_release no_gil;
  const at::AutoGradMode grad_mode(create_graph);
  torch::autograd::edge_list edges;
  for (const at::Tensor& input : inputs) {
    edges.push_back(torch::autograd::impl::gradient_edge(input));
  }
  const auto program = vjp::Program::compile(tape::read_tape(torch::autograd::impl::gradient_edge(output), edges));
  if (program.has_value()) {
    rows.emplace();
    for (at::Tensor& row : program->run(cotangents)) {
      rows->push_back(row.defined() ? std::optional<at::Tensor>(std::move(row)) : std::nullopt);
    }
  }
  END_HANDLE_TH_ERRORS_PYBIND
  return rows;
}

} // namespace

void bind_vjps(py::module_& m) {
  m.def(
      "program_vjp",
      &program_vjp,
      py::arg("output"),
      py::arg("cotangents"),
      py::arg("inputs"),
      py::arg("create_graph"));
  m.def("vjp_rules", &vjp::known_nodes);
}

} // namespace highgrad
