#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace highgrad::plan {

// Rows a sweep of `rows` should take when one row keeps `bytes_per_row` of cotangents alive on `device`: as many as
// fit a budget, at least one. On the CPU the budget is about what the caches and the memory bandwidth are good for; on
// an accelerator, a share of the memory that is free.
int64_t automatic_chunk_size(int64_t rows, int64_t bytes_per_row, c10::Device device);

} // namespace highgrad::plan
