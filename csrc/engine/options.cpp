#include "engine/options.h"

namespace highgrad::engine {

void warn(const JacobianOptions& options, const std::string& message) {
  options.on_warning(options.caller + ": " + message);
}

} // namespace highgrad::engine
