#include "ops/expand_symmetric.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "ops/symmetric_index.h"

namespace highgrad::ops {
namespace {

// Elements below which a second thread costs more than it saves, and columns whose ranks are kept at a time.
constexpr int64_t kGrainSize = 1 << 14;
constexpr int64_t kChunk = 1 << 11;

// The ranks of the columns of a full row, a chunk at a time.
class Ranks {
 public:
  explicit Ranks(const SymmetricShape& shape)
      : size_(shape.size),
        order_(shape.order),
        width_(digit_width(shape.size)),
        runs_(shape.full / shape.size),
        chunk_runs_(std::max<int64_t>(1, kChunk / shape.size)),
        terms_(static_cast<size_t>(size_ * order_)) {
    for (const auto k : c10::irange(order_)) {
      for (const auto i : c10::irange(size_)) {
        terms_[k * size_ + i] = rank_term(i, k);
      }
    }
  }

  int64_t num_chunks() const {
    return (runs_ + chunk_runs_ - 1) / chunk_runs_;
  }

  int64_t first_column(int64_t chunk) const {
    return chunk * chunk_runs_ * size_;
  }

  // Of all columns of a chunk, which are runs that differ in the last index alone.
  void fill(int64_t chunk, std::vector<int64_t>& ranks) const {
    const int64_t begin = chunk * chunk_runs_;
    const int64_t end = std::min(begin + chunk_runs_, runs_);
    ranks.resize(static_cast<size_t>((end - begin) * size_));
    const int others = order_ - 1;
    MultiIndex index = split_index(begin, size_, others, width_);
    int64_t* rank = ranks.data();
    for (int64_t run = begin; run < end; ++run) {
      MultiIndex sorted = index;
      sort_digits(sorted, others);
      InsertedRank inserted = start_inserting(sorted, others, terms_.data(), size_);
      // From one of the others to the next, that included, only the term of the last index changes.
      for (int64_t last = 0; last < size_;) {
        const int64_t first_rank = insert(inserted, sorted, others, terms_.data(), size_, last);
        const int64_t* terms = terms_.data() + inserted.place * size_;
        const int64_t until = inserted.place < others ? digit(sorted, inserted.place) + 1 : size_;
        const int64_t rest = first_rank - terms[last];
        for (; last < until; ++last) {
          *rank++ = rest + terms[last];
        }
      }
      next_index(index, size_, others);
    }
  }

 private:
  int64_t size_;
  int order_;
  int width_;
  int64_t runs_;
  int64_t chunk_runs_;
  std::vector<int64_t> terms_; // C(i + k, k + 1) at [k][i]
};

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
  const Ranks ranks(shape);
  AT_DISPATCH_FLOATING_AND_COMPLEX_TYPES_AND2(at::kHalf, at::kBFloat16, source.scalar_type(), "expand_symmetric", [&] {
    const auto* from = source.const_data_ptr<scalar_t>();
    auto* to = result.mutable_data_ptr<scalar_t>();
    // Threads share the chunks of all rows, the same chunk of all rows first, since its ranks are found once.
    const int64_t chunks = ranks.num_chunks();
    const int64_t grain = std::max<int64_t>(1, kGrainSize * chunks / shape.full);
    at::parallel_for(0, chunks * rows, grain, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> places;
      for (int64_t item = begin; item < end; ++item) {
        const int64_t chunk = item / rows;
        const int64_t row = item - chunk * rows;
        if (item == begin || row == 0) {
          ranks.fill(chunk, places);
        }
        const scalar_t* source_row = from + row * shape.packed;
        scalar_t* columns = to + row * shape.full + ranks.first_column(chunk);
        for (const int64_t place : places) {
          *columns++ = source_row[place];
        }
      }
    });
  });
  return result;
}

at::Tensor fold_symmetric_cpu(const at::Tensor& full, int64_t size, int64_t order) {
  const SymmetricShape shape = check_fold_symmetric(full, size, order);
  const int64_t rows = full.size(0);
  const at::Tensor source = full.contiguous().resolve_conj().resolve_neg();
  at::Tensor result = at::empty({rows, shape.packed}, full.options());
  if (result.numel() == 0) {
    return result;
  }
  if (shape.order <= 1) {
    return at::add_out(result, source, 0); // the sum of one, which a zero of either sign is in
  }
  const Ranks ranks(shape);
  AT_DISPATCH_FLOATING_AND_COMPLEX_TYPES_AND2(at::kHalf, at::kBFloat16, source.scalar_type(), "fold_symmetric", [&] {
    using sum_t = at::opmath_type<scalar_t>;
    const auto* from = source.const_data_ptr<scalar_t>();
    auto* to = result.mutable_data_ptr<scalar_t>();
    // Threads share the rows: an entry is the sum of its columns in their order, which is that of its permutations.
    const int64_t grain = std::max<int64_t>(1, kGrainSize / shape.full);
    at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> places;
      std::vector<sum_t> sums(static_cast<size_t>(shape.packed));
      for (int64_t row = begin; row < end; ++row) {
        std::fill(sums.begin(), sums.end(), sum_t(0));
        const scalar_t* columns = from + row * shape.full;
        for (const auto chunk : c10::irange(ranks.num_chunks())) {
          if (row == begin || ranks.num_chunks() > 1) {
            ranks.fill(chunk, places);
          }
          for (const int64_t place : places) {
            sums[place] += static_cast<sum_t>(*columns++);
          }
        }
        std::transform(
            sums.begin(), sums.end(), to + row * shape.packed, [](sum_t sum) { return static_cast<scalar_t>(sum); });
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
