#pragma once

#include <cstdint>

#include "ops/index_math.h"

namespace highgrad::ops {

// A divisor that many numbers are divided by: a product and a shift each (Granlund and Montgomery, PLDI 1994). Divisor
// and dividends are below 2^31.
struct Divider {
  uint32_t divisor;
  uint32_t magic; // 2^32 (2^shift - divisor) / divisor, rounded up
  uint32_t shift; // of the least power of two that is at least the divisor
};

inline Divider make_divider(uint32_t divisor) {
  uint32_t shift = 0;
  while ((uint32_t{1} << shift) < divisor) {
    shift += 1;
  }
  const uint64_t above = (uint64_t{1} << shift) - divisor;
  return {divisor, static_cast<uint32_t>((above << 32) / divisor + 1), shift};
}

HIGHGRAD_HOST_DEVICE uint32_t quotient(const Divider& by, uint32_t number) {
  const auto high = static_cast<uint32_t>((static_cast<uint64_t>(number) * by.magic) >> 32);
  return (high + number) >> by.shift;
}

// Divides `number`, and returns what is left.
HIGHGRAD_HOST_DEVICE uint32_t divide_off(const Divider& by, uint32_t& number) {
  const uint32_t whole = quotient(by, number);
  const uint32_t rest = number - whole * by.divisor;
  number = whole;
  return rest;
}

} // namespace highgrad::ops
