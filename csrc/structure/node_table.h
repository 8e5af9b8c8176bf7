#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "structure/windows.h"

namespace highgrad::structure {

// How the cotangent of a Node's output depends, axis by axis, on that of its input; "in" and "out" are those of the
// recorded operator, so that cotangents flow from out to in. Sizes tell the rest.
enum class Flow {
  kOther, // nothing is known
  kPointwise, // equal axes counted from the last, where in or out may have size 1 or no axis
  kFlat, // the same elements in row-major order
  kPermute, // out's axis k is in's axis dims[k]
  kSwap, // axes dims[0] and dims[1] change places
  kReduce, // in's axes `dims` (none: all) are reduced; they may be kept with size 1
  kMix, // the same shape, mixed along `dims` (none: all)
  kResize, // axes `dims` change their size or order, the others are the same
  kIndex, // in's axes `dims` are indexed by tensors; what these give stands in their place, or first if they lie apart
  kTake, // in's axis dims[0] is taken away, at position others[0] or, without it, that of the out
  kInsert, // out has one axis more, dims[0], where in is at position others[0], or as many as there are ins before it
  kUnfold, // out has one axis more, the last, along which in's axis dims[0] is repeated
  kWrite, // of a base, in number 0; the others are written to its view, of which axis i lies along its axis dims[i]
  kMatrixProduct, // of the operands that come last, after addends
  kMatrices, // of batches of matrices: in's axes but the last two are out's first, or but the last, of a vector; in
             // number others[0] has right-hand sides, along axis others[1], from the last on, as out has
  kPairs, // of two sets of rows, before their last axes: out's axes but the last are the first's, its last the second's
  kFirst, // of the first in, axis 0 alone is out's
  kSample, // of the first in, axes 0 and 1 are out's; the second, a grid, has out's axes but for axis 1, and one more,
           // the last
  kSequence, // of the first in and out, axis others[0] alone is shared, of the states, which are the last two ins and
             // all further outs, the last but one
  kSeries, // pointwise but along the axis that out has before all others, where in may have one of its own
  kConvolution, // of the input, in groups of channels; weight and bias follow, which have out's channels
};

// Elements that an operator picks of a tensor, each for one place of the result: see Note [Sets of columns].
enum class Pick {
  kNone, // none that could be told: as the flow says
  kAll,
  kIndex, // by tensors of indices or masks, one an axis
  kIndexSelect, // by indices along dims[0]
  kGather, // by one index an element, along dims[0]
  kTake, // by indices of the elements in row-major order
  kMask,
  kEmbedding, // rows
  kRepeat,
  kStrided, // as geometry does, from that of the tensor's memory
  kDiagonal,
  kSlice,
  kSelect,
  kUnfold,
  kLower, // triangle; nothing is picked above
  kUpper,
  kPatches, // as im2col does
  kReflected,
  kReplicated,
  kPixelShuffle,
  kPixelUnshuffle,
  kChannelShuffle,
  kTurned, // by quarters
  kBlock, // of a matrix, on its diagonal
  kRows, // by indices; of which row of out each is part, other indices say
  kSegments, // rows that lie next to one another, by their counts or by where each segment begins
  kPairs, // all elements of two rows of a matrix, for each pair of these in order
};

// Where the picked elements are.
enum class Placing {
  kTaken, // in's, for out's in order
  kSpread, // out's, for in's in order; others of out's are zero
  kPut, // out's, for the second in's in order; others of out's are the first in's
  kAdded, // likewise, but all of the first in's are kept
  kSummed, // in rows of out, of which each has several; addends come before
};

// What Note [Patterns by NaN] needs to know of a Node.
struct NodeFacts {
  Flow flow = Flow::kOther;
  // Whether which of the elements depend on which is the same for all values of the tensors that the Node has saved.
  bool is_global = false;
  // Whether all that may depend on each other do: along the axes that are reduced or mixed, and for all elements.
  bool is_full = false;
  // Whether NaN in the cotangent arrives wherever it may reach. If not, axes alone tell what the Node does.
  bool keeps_nan = true;
  // More exact than the flow, but not told by axes.
  Pick pick = Pick::kNone;
  Placing placing = Placing::kTaken;
};

constexpr NodeFacts with_pick(NodeFacts facts, Pick pick, Placing placing = Placing::kTaken) {
  facts.pick = pick;
  facts.placing = placing;
  return facts;
}

// Axes of a Node as its table row's flow reads them, not negative; how in lies along out there, where that is known;
// and whatever else tells two Nodes of one type and the same shapes apart.
struct NodeAttributes {
  std::vector<int64_t> dims;
  // One for each of `dims` (for a convolution, for each axis after the channels), or for each of several ins or outs.
  std::vector<Slide> slides;
  int64_t groups = 1; // of a convolution's channels
  bool is_vector = false; // whether the second in has a vector where the others have a matrix
  // Sizes of the view that is written to. The first of `dims`, as many as it has axes, are -1 for an axis that lies
  // along none; the others are axes of the base that the view has at one position.
  std::vector<int64_t> view = {};
  std::vector<int64_t> others;
  // Indices and masks that elements are picked by, undefined for an axis that is taken whole. The only attributes that
  // may differ between tapes of one signature.
  std::vector<at::Tensor> indices = {};
  // Whether all that `pick` needs could be read.
  bool has_places = true;
};

// None for a Node that is not in the table, or has hooks: nothing is assumed of it, NaN least of all.
std::optional<NodeFacts> facts_of(torch::autograd::Node& node);

// Of a Node in the table, whose operator's first in has `in_rank` axes and whose out has `out_rank`. None for sizes
// that are symbols.
std::optional<NodeAttributes> attributes_of(torch::autograd::Node& node, int64_t in_rank, int64_t out_rank);

// The Node that changes the view, if `node` is one of CopySlices, or null.
torch::autograd::Node* wrapped_by(torch::autograd::Node& node);

// The names of all rows.
std::vector<std::string> known_nodes();

} // namespace highgrad::structure
