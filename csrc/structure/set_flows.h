#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>

#include "structure/column_sets.h"
#include "structure/digits.h"
#include "structure/windows.h"

namespace highgrad::structure {

// Of the numbers of sets.
constexpr at::ScalarType kLabels = at::kInt;

// The sets of a tensor's elements, as a tensor of their numbers; undefined for one that depends on nothing.
struct Labelled {
  at::Tensor sets;
  Shape shape;
};

// The sets of an operator's out by those of its in: elements that are reduced, moved, repeated or written. Takes its
// steps from those that `sets` has left.
class SetFlows {
 public:
  explicit SetFlows(ColumnSets& sets) : sets_(sets) {}

  // In's digits are those of Flow, by the index of out's elements.
  at::Tensor along_ties(Digits ties, const Labelled& in, const Shape& out);

  // Of all elements, for each of out's.
  at::Tensor to_all(const at::Tensor& in, const Shape& out);

  at::Tensor united(const at::Tensor& a, const at::Tensor& b);

  // `values` besides what is at the places, one each, of `base`, which are numbered from 1 on; 0 is no place. What was
  // there is kept, or not.
  at::Tensor put(const at::Tensor& base, bool keeps_base, const at::Tensor& places, const at::Tensor& values);

 private:
  // Takes the free digits away: the union over all of their values.
  at::Tensor without_free(Digits& digits, const at::Tensor& in);

  // Positions of in's axis `dim` become those of out's.
  at::Tensor slide(const Window& window, const at::Tensor& in, int64_t dim);

  // Digits that are all equal to ones of out's: the strides, in `in`, of the parts that they cut out's index into.
  at::Tensor repeated(const Digits& digits, const at::Tensor& in, int64_t numel);

  ColumnSets& sets_;
};

} // namespace highgrad::structure
