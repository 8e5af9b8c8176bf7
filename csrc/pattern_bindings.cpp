// Part of the Python module: patterns and colourings as NumPy arrays. No logic: names and conversions.

#include "pattern_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "structure/bicoloring.h"
#include "structure/coloring.h"
#include "structure/nan_probes.h"
#include "structure/sparsity_pattern.h"

namespace py = pybind11;

namespace highgrad {
namespace {

using structure::Coloring;
using structure::SparsityPattern;
using Array = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

std::vector<int64_t> to_vector(const Array& array) {
  return {array.data(), array.data() + array.size()};
}

Array to_array(const std::vector<int64_t>& values) {
  return Array(static_cast<py::ssize_t>(values.size()), values.data());
}

SparsityPattern to_pattern(
    const char* caller,
    std::pair<int64_t, int64_t> shape,
    const Array& row_ptr,
    const Array& col_ind) {
  SparsityPattern pattern{shape.first, shape.second, to_vector(row_ptr), to_vector(col_ind)};
  structure::check_pattern(caller, pattern);
  return pattern;
}

std::pair<Array, int64_t> to_python(const Coloring& coloring) {
  return {to_array(coloring.colors), coloring.num_colors};
}

std::optional<std::pair<Array, int64_t>> color_rows(
    std::pair<int64_t, int64_t> shape,
    const Array& row_ptr,
    const Array& col_ind,
    const std::string& method,
    std::optional<int64_t> max_work) {
  const SparsityPattern pattern = to_pattern("color_rows", shape, row_ptr, col_ind);
  const SparsityPattern transposed = structure::transpose(pattern);
  std::optional<Coloring> coloring;
  if (method == "best") {
    coloring = structure::color_rows(pattern, transposed, max_work.value_or(kNoLimit));
  } else if (method == "closed form") {
    coloring = structure::closed_form_coloring(pattern, transposed);
  } else {
    const std::pair<const char*, structure::Order> orders[] = {
        {"natural", structure::Order::kNatural},
        {"largest first", structure::Order::kLargestFirst},
        {"smallest last", structure::Order::kSmallestLast},
        {"incidence degree", structure::Order::kIncidenceDegree}};
    for (const auto& [name, order] : orders) {
      if (method == name) {
        coloring = structure::greedy_coloring(pattern, transposed, order);
      }
    }
    if (!coloring.has_value()) {
      throw py::value_error("color_rows: expected a known method, got \"" + method + "\"");
    }
  }
  if (!coloring.has_value()) {
    return std::nullopt;
  }
  return to_python(*coloring);
}

// What probes find of a Jacobian whose nonzeros are known: its pattern, full columns and colours.
std::optional<std::tuple<Array, Array, Array, std::optional<std::pair<Array, int64_t>>>> probe_pattern(
    std::pair<int64_t, int64_t> shape,
    const Array& row_ptr,
    const Array& col_ind,
    const Array& row_at,
    const structure::ProbeBudget& budget) {
  const SparsityPattern known = to_pattern("probe_pattern", shape, row_ptr, col_ind);
  const auto probe = [&](const std::vector<int64_t>& group_of_row, structure::HitBits& hits) {
    const bool hit = true;
    for (int64_t row = 0; row < known.rows; ++row) {
      for (int64_t k = known.row_ptr[row]; k < known.row_ptr[row + 1]; ++k) {
        hits.set(group_of_row[row], known.col_ind[k], &hit, 1);
      }
    }
    return true;
  };
  auto found = structure::find_pattern(known.rows, known.columns, to_vector(row_at), budget, probe);
  if (!found.has_value()) {
    return std::nullopt;
  }
  std::optional<std::pair<Array, int64_t>> coloring;
  if (found->coloring.has_value()) {
    coloring = to_python(*found->coloring);
  }
  return std::tuple(
      to_array(found->pattern.row_ptr), to_array(found->pattern.col_ind), to_array(found->full_columns), coloring);
}

} // namespace

void bind_patterns(py::module_& m) {
  m.def(
      "color_rows",
      &color_rows,
      py::arg("shape"),
      py::arg("row_ptr"),
      py::arg("col_ind"),
      py::arg("method"),
      py::arg("max_work") = py::none());
  m.def(
      "color_both",
      [](std::pair<int64_t, int64_t> shape, const Array& row_ptr, const Array& col_ind, double columns_cost) {
        const structure::Bicoloring both =
            structure::bicolor(to_pattern("color_both", shape, row_ptr, col_ind), columns_cost, kNoLimit);
        return std::tuple(to_array(both.full_columns), to_array(both.rows.colors), both.rows.num_colors);
      },
      py::arg("shape"),
      py::arg("row_ptr"),
      py::arg("col_ind"),
      py::arg("columns_cost") = 1.5);
  m.def(
      "transpose_pattern",
      [](std::pair<int64_t, int64_t> shape, const Array& row_ptr, const Array& col_ind) {
        const SparsityPattern transposed =
            structure::transpose(to_pattern("transpose_pattern", shape, row_ptr, col_ind));
        return std::pair(to_array(transposed.row_ptr), to_array(transposed.col_ind));
      },
      py::arg("shape"),
      py::arg("row_ptr"),
      py::arg("col_ind"));
  using structure::ProbeBudget;
  py::class_<ProbeBudget>(m, "ProbeBudget")
      .def(py::init<>())
      .def_readwrite("first_blocks", &ProbeBudget::first_blocks)
      .def_readwrite("samples", &ProbeBudget::samples)
      .def_readwrite("sampled", &ProbeBudget::sampled)
      .def_readwrite("wide_blocks", &ProbeBudget::wide_blocks)
      .def_readwrite("split", &ProbeBudget::split)
      .def_readwrite("max_probes", &ProbeBudget::max_probes)
      .def_readwrite("max_colors", &ProbeBudget::max_colors)
      .def_readwrite("sweep_cost", &ProbeBudget::sweep_cost)
      .def_readwrite("entry_cost", &ProbeBudget::entry_cost)
      .def_readwrite("max_full_columns", &ProbeBudget::max_full_columns);
  m.def(
      "probe_pattern",
      &probe_pattern,
      py::arg("shape"),
      py::arg("row_ptr"),
      py::arg("col_ind"),
      py::arg("row_at"),
      py::arg("budget"));
}

} // namespace highgrad
