#pragma once

#include <cstdint>
#include <optional>

#include "structure/sparsity_pattern.h"
#include "tape/tape.h"

namespace highgrad::structure {

// Note [Sets of columns]
// Every element of a tensor on the tape depends on a set of the inputs' elements. The sets flow from the inputs to the
// output, by what each Node's row in the table says: along ties of axes (see Flow), where an element takes the union of
// all that the ties allow; or from the places that an operator picks, by what it has saved of them (see Pick). Of a
// Node of which nothing is known, all of the out depends on all of the in. What is selected by value counts as if all
// of it were: so the pattern is that of all values, and of all tapes of the same signature and the same indices.
// (A. Griewank, A. Walther, "Evaluating Derivatives", section 7.1: index domains.)

// Of the output's elements by those of all inputs on the tape, next to one another. None if it takes more steps than
// `work_left`, of which they are taken, or if shapes are not known, or there are no elements.
std::optional<SparsityPattern> dependency_pattern(const tape::Tape& tape, int64_t& work_left);

} // namespace highgrad::structure
