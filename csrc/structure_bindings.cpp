// Part of the Python module: what is found on a tape. No logic: names and conversions.

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/utils/pybind.h>

#include <string>
#include <utility>

#include "pattern_bindings.h"
#include "structure/axes.h"
#include "structure/compression.h"
#include "structure/dependencies.h"
#include "structure/forecast.h"
#include "structure/node_table.h"
#include "structure/passes.h"
#include "tape/tape.h"

namespace py = pybind11;

namespace highgrad {
namespace {

using structure::Compression;
using Array = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;
using KeptCompression = std::shared_ptr<Compression>;

std::vector<int64_t> to_vector(const Array& array) {
  return {array.data(), array.data() + array.size()};
}

Array to_array(const std::vector<int64_t>& values) {
  return Array(static_cast<py::ssize_t>(values.size()), values.data());
}

// Of each digit: its size, stride, and the arcs of its window, (first, count), with the size that they go round.
py::list to_python(const structure::Digits& digits) {
  py::list all;
  for (const structure::Digit& digit : digits) {
    py::list arcs;
    if (digit.window != nullptr) {
      for (const structure::Arc& arc : digit.window->arcs) {
        arcs.append(py::make_tuple(arc.first, arc.count));
      }
    }
    all.append(py::make_tuple(digit.size, digit.stride, digit.out_size(), arcs));
  }
  return all;
}

py::object analyze_axes(const at::Tensor& output, const std::vector<at::Tensor>& inputs) {
  torch::autograd::edge_list edges;
  for (const at::Tensor& input : inputs) {
    edges.push_back(torch::autograd::impl::gradient_edge(input));
  }
  const auto axes = structure::analyze_axes(tape::read_tape(torch::autograd::impl::gradient_edge(output), edges));
  if (!axes.has_value()) {
    return py::none();
  }
  py::list ties;
  for (const structure::Ties& of_input : axes->inputs) {
    ties.append(
        py::make_tuple(
            to_python(of_input.upper),
            of_input.lower.has_value() ? py::object(to_python(*of_input.lower)) : py::object(py::none())));
  }
  return py::make_tuple(ties, axes->is_known, axes->is_global, axes->signature, axes->keeps_nan);
}

// The row pointers of the sets that flow to the output, and their columns among those of all inputs, or None.
py::object find_dependencies(const at::Tensor& output, const std::vector<at::Tensor>& inputs, int64_t max_work) {
  torch::autograd::edge_list edges;
  for (const at::Tensor& input : inputs) {
    edges.push_back(torch::autograd::impl::gradient_edge(input));
  }
  const tape::Tape tape = tape::read_tape(torch::autograd::impl::gradient_edge(output), edges);
  auto pattern = structure::dependency_pattern(tape, max_work);
  if (!pattern.has_value()) {
    return py::none();
  }
  std::vector<int64_t> column_of;
  int64_t first = 0;
  for (size_t j = 0; j < inputs.size(); ++j) {
    for (int64_t k = 0; tape.inputs[j].is_on_tape() && k < inputs[j].numel(); ++k) {
      column_of.push_back(first + k);
    }
    first += inputs[j].numel();
  }
  for (int64_t& column : pattern->col_ind) {
    column = column_of.at(column);
  }
  return py::make_tuple(to_array(pattern->row_ptr), to_array(pattern->col_ind));
}

// How many columns an element of the output is forecast to depend on, and whether all depend on the same.
py::tuple forecast_columns(const at::Tensor& output, const std::vector<at::Tensor>& inputs) {
  torch::autograd::edge_list edges;
  for (const at::Tensor& input : inputs) {
    edges.push_back(torch::autograd::impl::gradient_edge(input));
  }
  const structure::Forecast forecast =
      structure::forecast_columns(tape::read_tape(torch::autograd::impl::gradient_edge(output), edges));
  return py::make_tuple(forecast.columns, forecast.are_rows_alike);
}

py::tuple to_state(const Compression& c) {
  py::list indices;
  for (const at::Tensor& index : c.indices) {
    indices.append(index.defined() ? py::cast(index) : py::object(py::none()));
  }
  return py::make_tuple(
      c.pattern.rows,
      c.pattern.columns,
      to_array(c.pattern.row_ptr),
      to_array(c.pattern.col_ind),
      c.by_columns,
      to_array(c.coloring.colors),
      c.coloring.num_colors,
      c.is_global,
      c.signature,
      c.reason,
      to_array(c.full_columns),
      indices);
}

KeptCompression from_state(const py::tuple& state) {
  auto c = std::make_shared<Compression>();
  c->pattern = {
      state[0].cast<int64_t>(),
      state[1].cast<int64_t>(),
      to_vector(state[2].cast<Array>()),
      to_vector(state[3].cast<Array>())};
  structure::check_pattern("Structure", c->pattern);
  c->by_columns = state[4].cast<bool>();
  c->coloring = {to_vector(state[5].cast<Array>()), state[6].cast<int64_t>()};
  c->is_global = state[7].cast<bool>();
  c->signature = state[8].cast<uint64_t>();
  c->reason = state[9].cast<std::string>();
  c->full_columns = to_vector(state[10].cast<Array>());
  for (const py::handle index : state[11].cast<py::list>()) {
    c->indices.push_back(index.is_none() ? at::Tensor() : index.cast<at::Tensor>());
  }
  return c;
}

} // namespace

void bind_structures(py::module_& m) {
  py::class_<Compression, KeptCompression>(m, "Structure")
      .def_property_readonly("shape", [](const Compression& c) { return std::pair(c.pattern.rows, c.pattern.columns); })
      .def_property_readonly("row_ptr", [](const Compression& c) { return to_array(c.pattern.row_ptr); })
      .def_property_readonly("col_ind", [](const Compression& c) { return to_array(c.pattern.col_ind); })
      .def_property_readonly("by_columns", [](const Compression& c) { return c.by_columns; })
      .def_property_readonly("colors", [](const Compression& c) { return to_array(c.coloring.colors); })
      .def_property_readonly("full_columns", [](const Compression& c) { return to_array(c.full_columns); })
      .def_property_readonly("num_passes", &structure::num_passes)
      .def_property_readonly("num_colors", [](const Compression& c) { return c.coloring.num_colors; })
      .def_property_readonly("holds_for_indices", [](const Compression& c) { return !c.indices.empty(); })
      .def_property_readonly("is_global", [](const Compression& c) { return c.is_global; })
      .def(
          "as_global",
          [](Compression c) {
            c.is_global = true;
            c.reason += ", and asserted to hold for all values";
            return std::make_shared<Compression>(std::move(c));
          })
      .def_property_readonly("signature", [](const Compression& c) { return c.signature; })
      .def_property_readonly("reason", [](const Compression& c) { return c.reason; })
      .def(py::pickle([](const Compression& c) { return to_state(c); }, &from_state));
  m.def("analyze_axes", &analyze_axes, py::arg("output"), py::arg("inputs"));
  m.def("find_dependencies", &find_dependencies, py::arg("output"), py::arg("inputs"), py::arg("max_work"));
  m.def("forecast_columns", &forecast_columns, py::arg("output"), py::arg("inputs"));
  m.def("known_nodes", &structure::known_nodes);
}

} // namespace highgrad
