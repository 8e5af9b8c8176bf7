#pragma once

// Where the ones of a standard basis stand in memory. Plain C++, so that it is tested where there is no GPU.

#include <algorithm>
#include <cstdint>

#include "ops/divider.h"

namespace highgrad::ops {

// The most elements that a kernel fills: it counts them in 32 bits.
constexpr int64_t kMostFilled = int64_t{1} << 30;

// Of so many elements in a row: element i is one where i + `before` is a multiple of `apart` and i is below `end`.
struct BasisPlan {
  Divider apart;
  uint32_t before;
  uint32_t end;
  uint32_t numel;
};

// Elements [begin, begin + numel), at most kMostFilled, of rows [first_row, first_row + rows) of an identity matrix of
// so many columns: one row's one stands columns + 1 elements behind that of the row before.
inline BasisPlan plan_basis(int64_t rows, int64_t columns, int64_t first_row, int64_t begin, int64_t numel) {
  const int64_t apart = columns + 1;
  const int64_t ones = std::min(rows, columns - first_row);
  const int64_t end = ones > 0 ? first_row + (ones - 1) * apart + 1 : 0;
  const int64_t since = begin - first_row;
  const int64_t next = since <= 0 ? -since : (apart - since % apart) % apart;
  // What lies outside of these elements may lie anywhere outside.
  const int64_t nearer = std::min(apart, kMostFilled);
  BasisPlan plan;
  plan.apart = make_divider(static_cast<uint32_t>(nearer));
  plan.before = static_cast<uint32_t>(nearer - std::min(next, nearer));
  plan.end = static_cast<uint32_t>(next < numel ? std::clamp<int64_t>(end - begin, 0, numel) : 0);
  plan.numel = static_cast<uint32_t>(numel);
  return plan;
}

// Elements from `begin` to the next of the ones, were there no end.
HIGHGRAD_HOST_DEVICE uint32_t next_one(const BasisPlan& plan, uint32_t begin) {
  uint32_t number = begin + plan.before;
  const uint32_t rest = divide_off(plan.apart, number);
  return rest == 0 ? 0 : plan.apart.divisor - rest;
}

} // namespace highgrad::ops
