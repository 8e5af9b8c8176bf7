#include "structure/windows.h"

#include <algorithm>

namespace highgrad::structure {
namespace {

// Rounded towards minus infinity. `b` is positive.
int64_t floor_divide(int64_t a, int64_t b) {
  return a / b - (a % b < 0 ? 1 : 0);
}

int64_t wrap(int64_t a, int64_t size) {
  return a - floor_divide(a, size) * size;
}

// Positions `first` to `last` of 0 to size - 1.
Arc clipped(int64_t first, int64_t last, int64_t size) {
  first = std::max<int64_t>(first, 0);
  last = std::min(last, size - 1);
  return first > last ? Arc{} : Arc{first, last - first + 1};
}

} // namespace

Arc hull(Arc a, Arc b, int64_t size) {
  if (a.count == 0 || b.count == 0) {
    return a.count == 0 ? b : a;
  }
  const auto around = [size](Arc from, Arc other) {
    const int64_t ahead = other.first - from.first;
    return Arc{from.first, std::max(from.count, (ahead < 0 ? ahead + size : ahead) + other.count)};
  };
  const Arc from_a = around(a, b);
  const Arc from_b = around(b, a);
  const Arc shorter = from_b.count < from_a.count ? from_b : from_a;
  return shorter.count >= size ? Arc{0, size} : shorter;
}

Arc positions_reached(const Slide& slide, int64_t position, int64_t size) {
  const int64_t reach = (slide.kernel - 1) * slide.dilation;
  switch (slide.kind) {
    case Slide::Kind::kOver: {
      const int64_t padded = position + slide.padding;
      return clipped(-floor_divide(reach - padded, slide.stride), floor_divide(padded, slide.stride), size);
    }
    case Slide::Kind::kUnder: {
      const int64_t first = position * slide.stride - slide.padding;
      return clipped(first, first + reach, size);
    }
    case Slide::Kind::kTurn:
      return {wrap(position + slide.padding, size), 1};
    case Slide::Kind::kFlip:
      return {size - 1 - position, 1};
  }
  return {0, size};
}

Window slide_window(const Slide& slide, const Window& out, int64_t in_size) {
  const auto out_size = static_cast<int64_t>(out.arcs.size());
  Window in{out.size, std::vector<Arc>(in_size)};
  for (int64_t position = 0; position < in_size; ++position) {
    const Arc reached = positions_reached(slide, position, out_size);
    for (int64_t k = 0; k < reached.count; ++k) {
      in.arcs[position] = hull(in.arcs[position], out.arcs[reached.first + k], out.size);
    }
  }
  return in;
}

Window joint_window(const Window& a, const Window& b) {
  Window joint{a.size, a.arcs};
  for (size_t k = 0; k < joint.arcs.size(); ++k) {
    joint.arcs[k] = hull(joint.arcs[k], b.arcs[k], a.size);
  }
  return joint;
}

Window identity_window(int64_t size) {
  Window window{size, std::vector<Arc>(size)};
  for (int64_t position = 0; position < size; ++position) {
    window.arcs[position] = {position, 1};
  }
  return window;
}

bool is_identity(const Window& window) {
  if (static_cast<int64_t>(window.arcs.size()) != window.size) {
    return false;
  }
  for (int64_t position = 0; position < window.size; ++position) {
    const Arc arc = window.arcs[position];
    if (arc.count != 1 || arc.first != position) {
      return false;
    }
  }
  return true;
}

bool tells_apart(const Window& window) {
  return std::any_of(window.arcs.begin(), window.arcs.end(), [&](const Arc& arc) { return arc.count < window.size; });
}

} // namespace highgrad::structure
