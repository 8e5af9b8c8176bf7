#pragma once

#include <exception>
#include <utility>

namespace highgrad::engine {

// What ends a call between two sweeps: Ctrl-C, or an exception of the caller's own progress function. Of a type of its
// own, since operators that are written in Python raise Python's errors in the midst of a sweep, and those may be
// helped.
struct Interrupted : std::exception {
  explicit Interrupted(std::exception_ptr cause) : cause(std::move(cause)) {}

  std::exception_ptr cause;
};

} // namespace highgrad::engine
