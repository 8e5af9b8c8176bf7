#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "structure/digits.h"
#include "structure/node_table.h"

namespace highgrad::structure {

// While it lives, operators on this thread run by themselves: without autograd, and unseen by torch's modes and
// transforms.
class BelowModes {
 private:
  at::AutoDispatchBelowADInplaceOrView below_autograd_;
  c10::impl::ExcludeDispatchKeyGuard without_modes_{c10::DispatchKeySet(
      {c10::DispatchKey::Python,
       c10::DispatchKey::PythonTLSSnapshot,
       c10::DispatchKey::FuncTorchDynamicLayerFrontMode,
       c10::DispatchKey::FuncTorchDynamicLayerBackMode,
       c10::DispatchKey::Functionalize})};
};

// The labels, integers on the CPU, of the elements that are picked of a tensor; 0 where none is picked for a place.
// `part` is the number of the out, or in, of an operator with several. None where the pick cannot be told, as of a
// geometry that has elements at one place in memory.
std::optional<at::Tensor> picked_labels(
    Pick pick,
    const NodeAttributes& attributes,
    int64_t part,
    const at::Tensor& labels);

// Of Placing::kSummed, with `rows` rows of out: rows of in, which are as long, and the row of out that each is part of.
struct SummedRows {
  at::Tensor from;
  at::Tensor to;
};
std::optional<SummedRows> summed_rows(Pick pick, const NodeAttributes& attributes, const Shape& in, int64_t rows);

// Of a write to a view: which of the base's labels the view has.
std::optional<at::Tensor> labels_of_view(const NodeAttributes& of_slices, const at::Tensor& labels);

// Copies that no later change of the indices reaches, where they are; one copy of those that are the same memory.
std::vector<at::Tensor> copy_indices(c10::ArrayRef<at::Tensor> indices);

// Whether two tapes of one signature pick the same elements: the indices are equal, one by one. Reads them where they
// are, once for indices that come more than once.
bool same_indices(c10::ArrayRef<at::Tensor> kept, c10::ArrayRef<at::Tensor> indices);

} // namespace highgrad::structure
