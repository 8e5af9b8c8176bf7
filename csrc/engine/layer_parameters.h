#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/compressed.h"
#include "engine/jacobian_block.h"
#include "engine/output_problem.h"

namespace highgrad::engine {

// Note [Parameters of layers]
// The Jacobian of a network's outputs by its parameters is dense, but made of little: a sample of the output depends on
// one sample of every layer's output alone. So the rows of all samples share sweeps down to the layers' outputs, of
// which there are as many as one sample of the output has elements; what a weight adds to a row is the product of the
// layer's cotangent and its input, sample by sample, and is written once, into the result.
// (The per-sample gradients of F. Dangel, F. Kunstner, P. Hennig, "BackPACK", ICLR 2020, from a recorded graph.)
//
// What a layer takes besides samples need not be a parameter: it may be computed from parameters, as the weight of a
// weight norm, or the product of a weight and a direction in the jets of recorded operators. The tape is cut there.
// Above, all Nodes have samples, which stay apart; below, none has, and the layers' rows of what is cut are cotangents
// of the Nodes below, which take them to the parameters in sweeps of their own, of all rows, through little.

// Sweeps that all samples share.
struct SharedSweeps {
  int64_t samples;
  double cost; // in rows of reverse mode over the whole tape
};

// None unless all that has no samples is taken by such layers: weights and biases of linear layers and convolutions,
// factors, divisors and addends that are broadcast over samples, affine parameters of layer norms. None, either, where
// nothing proves that the graph keeps samples apart, or for a cost of more than `most`.
std::optional<SharedSweeps> shared_sweeps(const OutputProblem& problem, double most);

// Fills the blocks, one an input. Returns false, with nothing in the blocks, where shared_sweeps gives none.
bool run_layer_parameters(
    const OutputProblem& problem,
    const std::vector<JacobianBlock*>& blocks,
    const CompressedSweeps& sweeps);

} // namespace highgrad::engine
