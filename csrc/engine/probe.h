#pragma once

#include "engine/linear_map.h"
#include "structure/nan_probes.h"

namespace highgrad::engine {

// Probes of a matrix (see structure's Note [Patterns by NaN]) by batched sweeps of at most `chunk_size` probes; where
// torch.vmap cannot go, one by one if `may_loop`. The map must outlive it. A probe fails if its sweep does, unless by
// an interrupt, which is thrown.
structure::Probe make_probe(const LinearMap& map, int64_t chunk_size, bool may_loop);

} // namespace highgrad::engine
