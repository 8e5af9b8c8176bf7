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

// How many samples share each sweep, if all inputs are parameters of such layers: weights and biases of linear layers
// and convolutions, factors and addends that are broadcast over samples, affine parameters of layer norms. None
// otherwise, and where nothing proves that the graph keeps samples apart.
std::optional<int64_t> samples_of_layers(const OutputProblem& problem);

// Fills the blocks, one an input. Returns false, with nothing in the blocks, where samples_of_layers gives none.
bool run_layer_parameters(
    const OutputProblem& problem,
    const std::vector<JacobianBlock*>& blocks,
    const CompressedSweeps& sweeps);

} // namespace highgrad::engine
