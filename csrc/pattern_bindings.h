#pragma once

#include <pybind11/pybind11.h>

namespace highgrad {

// The functions of structure/ on patterns as NumPy arrays.
void bind_patterns(pybind11::module_& m);

// Structures found on a tape.
void bind_structures(pybind11::module_& m);

// Plans of Jacobians.
void bind_plans(pybind11::module_& m);

} // namespace highgrad
