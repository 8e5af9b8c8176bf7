#pragma once

#include "tape/tape.h"

namespace highgrad::structure {

// Note [Forecast]
// Whether sets of columns (see Note [Sets of columns]) would be small is forecast in one walk from the output on, which
// looks at no index: how many elements of each tensor an element of the output depends on, on average. A Node
// multiplies that by the elements of in that an element of out is computed from, as many as axes tell, or as are picked
// if all are picked alike. What comes back on several paths is added up, unless only elementwise Nodes lie between:
// these depend on the same elements. So more may be forecast than there are, where paths meet again, and hardly fewer.
struct Forecast {
  // Of all inputs, that an element of the output depends on.
  double columns = 0;
  // Of one input's elements, the largest share: as much of the output depends on an element of that input.
  double share = 0;
  // Whether all elements of the output certainly depend on the same columns: all paths go through Nodes of which each
  // element of out depends on all of in.
  bool are_rows_alike = false;
};

// Linear in the Nodes down to where all is full.
Forecast forecast_columns(const tape::Tape& tape);

} // namespace highgrad::structure
