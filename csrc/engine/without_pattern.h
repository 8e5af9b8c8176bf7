#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace highgrad::engine {

// `count` numbers from 1 to 3 whose sums with other factors do not vanish by accident. Not random: the state of the
// random number generator is the user's.
at::Tensor numbers_without_pattern(int64_t count, const at::TensorOptions& options);

} // namespace highgrad::engine
