#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/linear_map.h"
#include "structure/nan_probes.h"
#include "vjp/program.h"

namespace highgrad::engine {

// Batched sweeps of at most `chunk_size` cotangents over a matrix, which must outlive them; where torch.vmap cannot go,
// one by one if `may_loop`.
class ProbeSweeps {
 public:
  // For cotangents [first, first + count): of each root that is defined, [count, *root.shape].
  using Seeds = c10::function_ref<std::vector<at::Tensor>(int64_t first, int64_t count)>;
  // Of each edge, [count, *], or undefined for zeros.
  using OnRows = c10::function_ref<void(const std::vector<at::Tensor>& rows, int64_t first, int64_t count)>;

  ProbeSweeps(const LinearMap& map, int64_t chunk_size, bool may_loop);

  // False if a sweep fails, unless by an interrupt, which is thrown.
  bool run(int64_t total, Seeds seeds, OnRows on_rows);

 private:
  std::optional<std::vector<at::Tensor>> products(std::vector<at::Tensor> seeds, int64_t count) const;

  const LinearMap& map_;
  torch::autograd::edge_list roots_;
  std::optional<vjp::Program> program_;
  int64_t chunk_size_;
  bool may_loop_;
};

// Probes of a matrix by such sweeps: see structure's Note [Patterns by NaN]. A probe fails if its sweep does.
structure::Probe make_probe(const LinearMap& map, int64_t chunk_size, bool may_loop);

} // namespace highgrad::engine
