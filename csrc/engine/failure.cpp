#include "engine/failure.h"

#include <c10/util/Exception.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>

#include <cstring>
#include <new>

#include "engine/interrupted.h"

namespace py = pybind11;

namespace highgrad::engine {
namespace {

Failure judge(const py::error_already_set& error) {
  if (!error.matches(PyExc_Exception)) {
    return Failure::kInterrupt;
  }
  const bool out_of_memory =
      error.matches(PyExc_MemoryError) || error.matches(py::module_::import("torch").attr("OutOfMemoryError"));
  return out_of_memory ? Failure::kOutOfMemory : Failure::kOther;
}

// torch's engine leaves the Python error set when it throws a python_error.
Failure judge_python_error() {
  const py::gil_scoped_acquire gil;
  if (PyErr_ExceptionMatches(PyExc_Exception) == 0) {
    return Failure::kInterrupt;
  }
  return judge(py::error_already_set());
}

} // namespace

Failure judge_failure(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const python_error&) {
    return judge_python_error();
  } catch (const Interrupted&) {
    return Failure::kInterrupt;
  } catch (const py::error_already_set& error) {
    const py::gil_scoped_acquire gil;
    return judge(error);
  } catch (const c10::OutOfMemoryError&) {
    return Failure::kOutOfMemory;
  } catch (const std::bad_alloc&) {
    return Failure::kOutOfMemory;
  } catch (const c10::Error& error) {
    // The CPU's allocator has no exception of its own: "DefaultCPUAllocator: can't allocate memory: you tried ...".
    return std::strstr(error.what_without_backtrace(), "DefaultCPUAllocator") != nullptr ? Failure::kOutOfMemory
                                                                                         : Failure::kOther;
  } catch (...) {
    return Failure::kOther;
  }
}

void discard_python_error() {
  const py::gil_scoped_acquire gil;
  PyErr_Clear();
}

} // namespace highgrad::engine
