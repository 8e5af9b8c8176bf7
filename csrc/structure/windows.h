#pragma once

#include <cstdint>
#include <vector>

namespace highgrad::structure {

// `count` numbers from `first` on, where the last of some size is followed by 0; none if count is 0.
struct Arc {
  int64_t first = 0;
  int64_t count = 0;
};

// An arc that has both: the shorter of the two that there are.
Arc hull(Arc a, Arc b, int64_t size);

// How an axis of an operator's in lies along the axis of its out.
struct Slide {
  enum class Kind {
    kOver, // out's position o takes in's positions o * stride - padding + j * dilation, for j < kernel
    kUnder, // in's position i reaches out's positions i * stride - padding + j * dilation, for j < kernel
    kTurn, // in's position i is out's position i + padding, modulo their size
    kFlip, // in's position i is out's position size - 1 - i
    kUpTo, // out's position o takes in's up to o
    kShare, // out's position o takes what in's `kernel` positions share with its part of them, all parts being alike
    // out's position o lies at (o * stride + padding) / dilation, rounded, and takes in's up to `kernel` positions away
    kNear,
  };
  Kind kind = Kind::kOver;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t dilation = 1;
};

// Which of out's positions, of `size`, may depend on in's `position`.
Arc positions_reached(const Slide& slide, int64_t position, int64_t size);

// Note [Windows]
// Along an axis that is convolved, pooled, cut, padded or rolled, an element does not belong to one position of the
// output's axis, but to some next to one another: a window for each of its own positions. Windows of windows, and those
// of several paths, are the arcs around all of them; where that leaves gaps filled, a pattern has more entries than it
// needs, and never fewer.
struct Window {
  int64_t size = 0; // of the output's axis
  std::vector<Arc> arcs; // for each position
};

// Of in's axis, of `in_size` positions, by that of out's.
Window slide_window(const Slide& slide, const Window& out, int64_t in_size);

// One window for each position, of all arcs that either has. Both are of the same sizes.
Window joint_window(const Window& a, const Window& b);

// Position i belongs to i alone.
Window identity_window(int64_t size);
bool is_identity(const Window& window);

// Whether any position belongs to some of the output's positions and not to others.
bool tells_apart(const Window& window);

} // namespace highgrad::structure
