#pragma once

#include <exception>

namespace highgrad::engine {

// Why a sweep ended with an exception.
enum class Failure {
  kOutOfMemory, // fewer rows may help
  kInterrupt, // KeyboardInterrupt and its like: nothing may be tried again
  kOther, // the row loop may help
};

// Judges the exception of a sweep. The Python error that may have come with it is cleared, but for kInterrupt, where
// the exception is to be thrown again.
Failure judge_failure(const std::exception_ptr& exception);

// Clears the Python error, if one is set, of an exception that is not to be thrown again.
void discard_python_error();

} // namespace highgrad::engine
