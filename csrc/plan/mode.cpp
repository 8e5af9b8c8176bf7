#include "plan/mode.h"

#include <c10/util/Exception.h>

namespace highgrad::plan {
namespace {

// Forward mode dispatches about three times the operators of one reverse sweep, whatever the sizes. The reverse sweep
// must be long enough to pay for them.
constexpr int64_t kLeastReverseBytes = int64_t{1} << 20;

} // namespace

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

bool is_forward_cheaper(int64_t rows, int64_t columns, int64_t bytes_per_row) {
  return 3 * columns + 2 < 2 * rows && rows * bytes_per_row >= kLeastReverseBytes;
}

} // namespace highgrad::plan
