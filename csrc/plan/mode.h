#pragma once

#include <string>

namespace highgrad::plan {

enum class Mode { kAuto, kReverse, kForward };

// The mode that the user calls `name`; raises ValueError for any other name.
Mode parse_mode(const std::string& caller, const std::string& name);

} // namespace highgrad::plan
