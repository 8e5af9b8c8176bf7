#include "ops/expand_symmetric.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "ops/symmetric_index.h"

namespace highgrad::ops {
namespace {

constexpr int64_t kGrainSize = 1 << 14;

// C(i + k, k + 1) at [k][i].
std::vector<int64_t> rank_terms(int64_t size, int64_t order) {
  std::vector<int64_t> terms(static_cast<size_t>(size * order));
  for (const auto k : c10::irange(order)) {
    for (const auto i : c10::irange(size)) {
      terms[k * size + i] = binomial(i + k, k + 1);
    }
  }
  return terms;
}

at::Tensor expand_symmetric_cpu(const at::Tensor& packed, int64_t size, int64_t order) {
  const SymmetricShape shape = check_expand_symmetric(packed, size, order);
  const int64_t rows = packed.size(0);
  const at::Tensor source = packed.contiguous().resolve_conj().resolve_neg();
  const at::Tensor result = at::empty({rows, shape.full}, packed.options());
  if (result.numel() == 0) {
    return result;
  }
  if (shape.order <= 1) {
    return result.copy_(source);
  }
  const std::vector<int64_t> terms = rank_terms(shape.size, shape.order);
  const int width = digit_width(shape.size);
  AT_DISPATCH_FLOATING_AND_COMPLEX_TYPES_AND2(at::kHalf, at::kBFloat16, source.scalar_type(), "expand_symmetric", [&] {
    const auto* from = source.const_data_ptr<scalar_t>();
    auto* to = result.mutable_data_ptr<scalar_t>();
    // Threads share the columns, in runs that differ in the last index alone.
    const int others = shape.order - 1;
    const int64_t grain = std::max<int64_t>(1, kGrainSize / (rows * shape.size));
    at::parallel_for(0, shape.full / shape.size, grain, [&](int64_t begin, int64_t end) {
      MultiIndex index = split_index(begin, shape.size, others, width);
      for (int64_t run = begin; run < end; ++run) {
        MultiIndex sorted = index;
        sort_digits(sorted, others);
        InsertedRank inserted = start_inserting(sorted, others, terms.data(), shape.size);
        for (const auto last : c10::irange(shape.size)) {
          const int64_t rank = insert(inserted, sorted, others, terms.data(), shape.size, last);
          for (const auto row : c10::irange(rows)) {
            to[row * shape.full + run * shape.size + last] = from[row * shape.packed + rank];
          }
        }
        next_index(index, shape.size, others);
      }
    });
  });
  return result;
}

at::Tensor fold_symmetric_cpu(const at::Tensor& full, int64_t size, int64_t order) {
  const SymmetricShape shape = check_fold_symmetric(full, size, order);
  const int64_t rows = full.size(0);
  const at::Tensor source = full.contiguous().resolve_conj().resolve_neg();
  const at::Tensor result = at::empty({rows, shape.packed}, full.options());
  if (result.numel() == 0) {
    return result;
  }
  const int width = digit_width(shape.size);
  const int64_t grain = std::max<int64_t>(1, kGrainSize * shape.packed / (rows * shape.full));
  AT_DISPATCH_FLOATING_AND_COMPLEX_TYPES_AND2(at::kHalf, at::kBFloat16, source.scalar_type(), "fold_symmetric", [&] {
    const auto* from = source.const_data_ptr<scalar_t>();
    auto* to = result.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, shape.packed, grain, [&](int64_t begin, int64_t end) {
      std::vector<at::opmath_type<scalar_t>> sums(static_cast<size_t>(rows));
      for (const auto rank : c10::irange(begin, end)) {
        MultiIndex index = unrank(rank, shape.size, shape.order, width);
        std::fill(sums.begin(), sums.end(), at::opmath_type<scalar_t>(0));
        do {
          const int64_t column = join_index(index, shape.size, shape.order);
          for (const auto row : c10::irange(rows)) {
            sums[row] += static_cast<at::opmath_type<scalar_t>>(from[row * shape.full + column]);
          }
        } while (next_permutation(index, shape.order));
        for (const auto row : c10::irange(rows)) {
          to[row * shape.packed + rank] = static_cast<scalar_t>(sums[row]);
        }
      }
    });
  });
  return result;
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, CPU, m) {
  m.impl("expand_symmetric", TORCH_FN(highgrad::ops::expand_symmetric_cpu));
  m.impl("fold_symmetric", TORCH_FN(highgrad::ops::fold_symmetric_cpu));
}
