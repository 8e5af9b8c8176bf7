#include "structure/windows.h"

#include <algorithm>

namespace highgrad::structure {
namespace {

// Rounded towards minus infinity. `b` is positive.
int64_t floor_divide(int64_t a, int64_t b) {
  return b == 1 ? a : a / b - (a % b < 0 ? 1 : 0);
}

int64_t wrap(int64_t a, int64_t size) {
  if (a >= 0 && a < 2 * size) {
    return a < size ? a : a - size;
  }
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
    case Slide::Kind::kUpTo:
      return clipped(position, size - 1, size);
    case Slide::Kind::kShare:
      return clipped(
          floor_divide(position * size, slide.kernel), -floor_divide(-(position + 1) * size, slide.kernel) - 1, size);
    case Slide::Kind::kNear: {
      if (slide.stride == 0) {
        return {0, size};
      }
      // Of those rounded down, at least position - kernel, and less than position + kernel + 1.
      const auto first_at_least = [&](int64_t place) {
        return -floor_divide(slide.padding - place * slide.dilation, slide.stride);
      };
      return clipped(first_at_least(position - slide.kernel), first_at_least(position + slide.kernel + 1) - 1, size);
    }
  }
  return {0, size};
}

namespace {

// Whether arcs begin and end in order, and none goes past the end.
bool are_in_order(const Window& window) {
  for (size_t k = 0; k < window.arcs.size(); ++k) {
    const Arc arc = window.arcs[k];
    const Arc before = k == 0 ? arc : window.arcs[k - 1];
    if (arc.count == 0 || arc.first + arc.count > window.size || arc.first < before.first ||
        arc.first + arc.count < before.first + before.count) {
      return false;
    }
  }
  return true;
}

// Around those of `reached`'s positions.
Arc hull_of(const Window& window, Arc reached, bool in_order) {
  if (in_order && reached.count > 0) {
    const Arc last = window.arcs[reached.first + reached.count - 1];
    const int64_t first = window.arcs[reached.first].first;
    const Arc around{first, last.first + last.count - first};
    // None across the end is shorter.
    if (2 * around.count <= window.size) {
      return around;
    }
  }
  Arc around;
  for (int64_t k = 0; k < reached.count; ++k) {
    around = hull(around, window.arcs[reached.first + k], window.size);
  }
  return around;
}

} // namespace

Window slide_window(const Slide& slide, const Window& out, int64_t in_size) {
  const auto out_size = static_cast<int64_t>(out.arcs.size());
  Window in{out.size, std::vector<Arc>(in_size)};
  if (slide.kind == Slide::Kind::kUpTo && in_size == out_size) {
    // Each position has what the next one has.
    Arc around;
    for (int64_t position = in_size; position-- > 0;) {
      around = hull(around, out.arcs[position], out.size);
      in.arcs[position] = around;
    }
    return in;
  }
  const bool in_order = are_in_order(out);
  for (int64_t position = 0; position < in_size; ++position) {
    in.arcs[position] = hull_of(out, positions_reached(slide, position, out_size), in_order);
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
