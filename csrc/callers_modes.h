#pragma once

#include <ATen/PythonTorchFunctionTLS.h>

namespace highgrad {

// Note [Modes of the caller]
// While torch's mode for a default device is on, each call of torch from Python goes through a function in Python, also
// those of this package, which names the device of all that it makes. So its Python runs without modes. But hooks and
// custom Functions on a graph are the caller's, and are run under the caller's modes: each binding that may come to
// them restores these.
class WithoutModes {
 public:
  void enter() {
    before_ = at::impl::PythonTorchFunctionTLS::get_disabled_state();
    at::impl::PythonTorchFunctionTLS::set_disabled_state(at::impl::ALL_DISABLED);
    ++depth();
  }

  void exit() {
    --depth();
    at::impl::PythonTorchFunctionTLS::set_disabled_state(before_);
  }

  static int& depth() {
    static thread_local int depth = 0;
    return depth;
  }

 private:
  at::impl::TorchFunctionDisabledState before_ = at::impl::ENABLED;
};

class CallersModes {
 public:
  CallersModes() : before_(at::impl::PythonTorchFunctionTLS::get_disabled_state()) {
    if (WithoutModes::depth() > 0) {
      at::impl::PythonTorchFunctionTLS::set_disabled_state(at::impl::ENABLED);
    }
  }
  CallersModes(const CallersModes&) = delete;
  CallersModes& operator=(const CallersModes&) = delete;
  ~CallersModes() {
    at::impl::PythonTorchFunctionTLS::set_disabled_state(before_);
  }

 private:
  const at::impl::TorchFunctionDisabledState before_;
};

} // namespace highgrad
