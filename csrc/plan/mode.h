#pragma once

#include <cstdint>
#include <string>

namespace highgrad::plan {

enum class Mode { kAuto, kReverse, kForward };

// The mode that the user calls `name`; raises ValueError for any other name.
Mode parse_mode(const std::string& caller, const std::string& name);

// Whether forward mode (columns + 1 passes, over a tape that is about half as long again) beats reverse mode (rows
// passes), when one row brings `bytes_per_row` of cotangents to the Nodes of the tape.
bool is_forward_cheaper(int64_t rows, int64_t columns, int64_t bytes_per_row);

} // namespace highgrad::plan
