#pragma once

#include "engine/linear_map.h"
#include "structure/nan_probes.h"

namespace highgrad::engine {

// Probes of a matrix (see structure's Note [Patterns by NaN]) by batched sweeps of at most `chunk_size` probes; where
// torch.vmap cannot go, one by one if `may_loop`. The map must outlive it. A probe fails if its sweep does, unless by
// an interrupt, which is thrown.
structure::Probe make_probe(const LinearMap& map, int64_t chunk_size, bool may_loop);

// Numbers without a pattern instead of NaN, which hit where anything but zero arrives: for Nodes that may lose NaN. As
// long as they are linear, sums of what rows reach do not vanish by accident, so a column is hit unless it is zero at
// this point; it may be so by accident, and then its derivatives need not be.
structure::Probe make_value_probe(const LinearMap& map, int64_t chunk_size);

} // namespace highgrad::engine
