#include "engine/vmap_level.h"

#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace highgrad::engine {
namespace {

// Note [Levels through Python]
// ATen/functorch/DynamicLayer.h, which declares the push and the pop, does not compile from the wheel: it includes a
// header that is not shipped. torch._C._functorch has both. The handles are leaked: a static py::object would be
// destroyed after the interpreter and abort the process.
struct LevelFunctions {
  py::object push;
  py::object pop;
};

const LevelFunctions& level_functions() {
  static const auto* functions = [] {
    const py::module_ functorch = py::module_::import("torch._C._functorch");
    return new LevelFunctions{functorch.attr("_vmap_increment_nesting"), functorch.attr("_vmap_decrement_nesting")};
  }();
  return *functions;
}

} // namespace

VmapLevel::VmapLevel(int64_t batch_size) {
  py::gil_scoped_acquire gil;
  // "same": a Node that recomputes its forward (checkpoint) draws for all rows what the row loop would draw for each.
  level_ = level_functions().push(batch_size, "same").cast<int64_t>();
}

VmapLevel::~VmapLevel() {
  py::gil_scoped_acquire gil;
  // The pop may happen while a Python error of a backward is set; calling into Python then would fail.
  const py::error_scope error;
  try {
    level_functions().pop();
  } catch (py::error_already_set& e) {
    e.discard_as_unraisable("highgrad_ext: leaving a vmap level");
  }
}

} // namespace highgrad::engine
