// Part of the Python module: plans. No logic: names and conversions.

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "pattern_bindings.h"
#include "plan/plan.h"

namespace py = pybind11;

namespace highgrad {
namespace {

using plan::OutputPlan;
using KeptCompression = std::shared_ptr<structure::Compression>;

KeptCompression structure_of(const OutputPlan& plan) {
  return std::const_pointer_cast<structure::Compression>(plan.structure);
}

// Mode, rows and columns of each.
std::vector<std::tuple<std::string, int64_t, int64_t>> segments_of(const OutputPlan& plan) {
  std::vector<std::tuple<std::string, int64_t, int64_t>> segments;
  for (const plan::Segment& segment : plan.segments) {
    segments.emplace_back(segment.mode == plan::Mode::kForward ? "forward" : "reverse", segment.rows, segment.columns);
  }
  return segments;
}

bool have_one_root(const plan::Segment& a, const plan::Segment& b) {
  return a.mode == b.mode && a.root.node == b.root.node && a.root.input_nr == b.root.input_nr;
}

// Whether both compute the same Jacobians, in the same passes.
bool are_equal(const OutputPlan& a, const OutputPlan& b) {
  return a.signature == b.signature && a.rows == b.rows && a.columns == b.columns && a.chunk_size == b.chunk_size &&
      a.samples == b.samples && a.obstacle == b.obstacle &&
      std::equal(a.segments.begin(), a.segments.end(), b.segments.begin(), b.segments.end(), &have_one_root) &&
      std::equal(
             a.parts.begin(),
             a.parts.end(),
             b.parts.begin(),
             b.parts.end(),
             [](const auto& p, const auto& q) { return are_equal(*p, *q); }) &&
      (a.structure == b.structure ||
       (a.structure != nullptr && b.structure != nullptr && *a.structure == *b.structure));
}

py::tuple to_state(const OutputPlan& p) {
  py::list segments;
  for (const plan::Segment& segment : p.segments) {
    segments.append(
        py::make_tuple(
            segment.root.node,
            segment.root.input_nr,
            segment.mode == plan::Mode::kForward,
            segment.rows,
            segment.columns));
  }
  return py::make_tuple(
      segments,
      p.reason,
      p.cost,
      p.obstacle,
      structure_of(p),
      p.rows,
      p.columns,
      p.signature,
      p.chunk_size,
      p.bytes_per_row,
      p.samples,
      p.parts);
}

std::shared_ptr<OutputPlan> plan_from_state(const py::tuple& state) {
  auto p = std::make_shared<OutputPlan>();
  for (const py::handle item : state[0]) {
    const auto segment = item.cast<py::tuple>();
    p->segments.push_back(
        {{segment[0].cast<int32_t>(), segment[1].cast<uint32_t>()},
         segment[2].cast<bool>() ? plan::Mode::kForward : plan::Mode::kReverse,
         segment[3].cast<int64_t>(),
         segment[4].cast<int64_t>()});
  }
  p->reason = state[1].cast<std::string>();
  p->cost = state[2].cast<double>();
  p->obstacle = state[3].cast<std::string>();
  p->structure = state[4].cast<KeptCompression>();
  p->rows = state[5].cast<int64_t>();
  p->columns = state[6].cast<int64_t>();
  p->signature = state[7].cast<uint64_t>();
  p->chunk_size = state[8].cast<int64_t>();
  p->bytes_per_row = state[9].cast<int64_t>();
  p->samples = state[10].cast<int64_t>();
  for (const auto& part : state[11].cast<std::vector<std::shared_ptr<OutputPlan>>>()) {
    p->parts.push_back(part);
  }
  return p;
}

} // namespace

void bind_plans(py::module_& m) {
  py::class_<OutputPlan, std::shared_ptr<OutputPlan>>(m, "OutputPlan")
      .def_readonly("rows", &OutputPlan::rows)
      .def_readonly("columns", &OutputPlan::columns)
      .def_property_readonly("segments", &segments_of)
      .def_property_readonly("passes", &OutputPlan::shared_passes)
      .def_readonly("chunk_size", &OutputPlan::chunk_size)
      .def_readonly("bytes_per_row", &OutputPlan::bytes_per_row)
      .def_readonly("reason", &OutputPlan::reason)
      .def_property_readonly("structure", &structure_of)
      .def(
          "with_structure",
          [](OutputPlan p, const KeptCompression& c) {
            p.structure = c;
            return p;
          })
      .def("__eq__", &are_equal, py::is_operator())
      .def("__hash__", [](const OutputPlan& p) { return p.signature; })
      .def(py::pickle([](const OutputPlan& p) { return to_state(p); }, &plan_from_state));
}

} // namespace highgrad
