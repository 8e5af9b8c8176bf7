#include "plan/mode.h"

#include <c10/util/Exception.h>

namespace highgrad::plan {
Mode parse_mode(const std::string& caller, const std::string& name) {
  if (name == "auto") {
    return Mode::kAuto;
  }
  if (name == "reverse") {
    return Mode::kReverse;
  }
  TORCH_CHECK_VALUE(
      name == "forward", caller, ": expected mode to be \"auto\", \"reverse\" or \"forward\", got \"", name, "\"");
  return Mode::kForward;
}

} // namespace highgrad::plan
