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

int64_t push_level(int64_t batch_size) {
  const py::gil_scoped_acquire gil;
  // "same": a Node that recomputes its forward (checkpoint) draws for all rows what the row loop would draw for each.
  return level_functions().push(batch_size, "same").cast<int64_t>();
}

void pop_level() {
  const py::gil_scoped_acquire gil;
  level_functions().pop();
}

// `change` in a destructor: it may run while a Python error of a backward is set, and calling into Python then fails.
template <typename Change>
void change_level_at_end(const Change& change) {
  const py::gil_scoped_acquire gil;
  const py::error_scope error;
  try {
    change();
  } catch (py::error_already_set& e) {
    e.discard_as_unraisable("highgrad_ext: changing the vmap level");
  }
}

} // namespace

VmapLevel::VmapLevel(int64_t batch_size) : batch_size_(batch_size), level_(push_level(batch_size)) {}

VmapLevel::~VmapLevel() {
  change_level_at_end(&pop_level);
}

OutsideVmapLevel::OutsideVmapLevel(const VmapLevel& level) : level_(level) {
  pop_level();
}

OutsideVmapLevel::~OutsideVmapLevel() {
  change_level_at_end([&] { push_level(level_.batch_size()); });
}

} // namespace highgrad::engine
