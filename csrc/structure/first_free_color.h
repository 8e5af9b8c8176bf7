#pragma once

#include <cstdint>
#include <vector>

#include "structure/coloring.h"

namespace highgrad::structure {

// Gives `row` the first colour that is not taken for it, a new one if all are: taken_for[color] is the last row for
// which that colour was found taken, or -1.
inline void give_first_free_color(Coloring& coloring, std::vector<int64_t>& taken_for, int64_t row) {
  int64_t color = 0;
  while (color < coloring.num_colors && taken_for[color] == row) {
    ++color;
  }
  if (color == coloring.num_colors) {
    ++coloring.num_colors;
    taken_for.push_back(-1);
  }
  coloring.colors[row] = color;
}

} // namespace highgrad::structure
