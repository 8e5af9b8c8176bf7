#pragma once

#include <pybind11/pybind11.h>

namespace highgrad {

// Sweeps without the engine, for tests.
void bind_vjps(pybind11::module_& m);

} // namespace highgrad
