#pragma once

#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>

#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/interrupted.h"
#include "engine/options.h"

namespace highgrad {

// Between sweeps: Ctrl-C is answered, and progress, if asked for, is told (rows done, all rows).
inline std::function<void(int64_t, int64_t)> make_after_sweep(const pybind11::object& progress) {
  return [&progress](int64_t rows_done, int64_t total_rows) {
    const pybind11::gil_scoped_acquire gil;
    try {
      if (PyErr_CheckSignals() != 0) {
        throw pybind11::error_already_set();
      }
      if (!progress.is_none()) {
        progress(rows_done, total_rows);
      }
    } catch (const pybind11::error_already_set&) {
      throw engine::Interrupted(std::current_exception());
    }
  };
}

// The result of call(options), in which sweeps run, with its errors and warnings as Python's.
template <typename Call>
auto call_sweeps(engine::JacobianOptions options, const pybind11::object& progress, Call&& call) {
  // Assigned, not returned, inside of the macros: a warning that is an error is thrown at their end.
  decltype(call(options)) results;
  std::vector<std::string> warnings;
  HANDLE_TH_ERRORS
  options.after_sweep = make_after_sweep(progress);
  options.on_warning = [&warnings](std::string message) { warnings.push_back(std::move(message)); };
  const pybind11::gil_scoped_release no_gil; // the engine refuses to run with the GIL held
  try {
    results = call(options);
  } catch (const engine::Interrupted& interrupted) {
    std::rethrow_exception(interrupted.cause);
  }
  END_HANDLE_TH_ERRORS_PYBIND
  for (const std::string& warning : warnings) {
    pybind11::module_::import("highgrad_ext._options").attr("warn")(warning);
  }
  return results;
}

} // namespace highgrad
