#include "engine/options.h"

#include <c10/util/Exception.h>

namespace highgrad::engine {

void warn(const JacobianOptions& options, const std::string& message) {
  c10::warn(c10::Warning(c10::UserWarning(), {nullptr, nullptr, 0}, options.caller + ": " + message, false));
}

} // namespace highgrad::engine
