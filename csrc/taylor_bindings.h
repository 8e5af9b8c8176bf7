#pragma once

#include <pybind11/pybind11.h>

namespace highgrad {

// What orders above one need: the functions of taylor/, and what is checked and planned before them.
void bind_taylor(pybind11::module_& m);

} // namespace highgrad
