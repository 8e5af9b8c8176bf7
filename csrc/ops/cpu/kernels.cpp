#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "ops/assemble_rows.h"
#include "ops/index_math.h"
#include "ops/joined_shape.h"
#include "ops/seed_basis.h"
#include "ops/strided_layout.h"

namespace highgrad::ops {
namespace {

// Elements below which a second thread costs more than it saves.
constexpr int64_t kGrainSize = 1 << 15;

// Side of the square tiles in which a transposed block is copied, so that both sides use whole cache lines.
constexpr int64_t kTile = 32;

at::Tensor seed_basis_cpu(const at::Tensor& like, int64_t rows, int64_t first_row) {
  check_seed_basis(like, rows, first_row);
  const at::Tensor basis = at::empty(joined_shape(rows, like.sizes()), like.options().layout(at::kStrided));
  const int64_t columns = like.numel();
  if (basis.numel() == 0) {
    return basis;
  }
  AT_DISPATCH_FLOATING_AND_COMPLEX_TYPES_AND2(at::kHalf, at::kBFloat16, basis.scalar_type(), "seed_basis", [&] {
    auto* data = basis.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, rows, std::max<int64_t>(1, kGrainSize / columns), [&](int64_t begin, int64_t end) {
      // All bits zero is zero in every dtype.
      const auto bytes = static_cast<size_t>((end - begin) * columns) * sizeof(scalar_t);
      std::memset(static_cast<void*>(data + begin * columns), 0, bytes);
      for (int64_t row = begin; row < std::min(end, columns - first_row); ++row) {
        data[row * columns + row + first_row] = scalar_t(1);
      }
    });
  });
  return basis;
}

// One row-major run of `length` elements from a source of stride `stride`.
template <typename dst_t, typename src_t>
void copy_run(dst_t* dst, const src_t* src, int64_t length, int64_t stride) {
  if constexpr (std::is_same_v<dst_t, src_t>) {
    if (stride == 1) {
      std::memcpy(dst, src, static_cast<size_t>(length) * sizeof(dst_t));
      return;
    }
  }
  for (const auto i : c10::irange(length)) {
    dst[i] = static_cast<dst_t>(src[i * stride]);
  }
}

// A matrix of `height` x `width`, row-major in dst and column-major (unit stride down a column) in src.
template <typename dst_t, typename src_t>
void copy_transposed(dst_t* dst, const src_t* src, int64_t height, int64_t width, int64_t src_stride) {
  for (int64_t row0 = 0; row0 < height; row0 += kTile) {
    const int64_t row1 = std::min(row0 + kTile, height);
    for (int64_t column0 = 0; column0 < width; column0 += kTile) {
      const int64_t column1 = std::min(column0 + kTile, width);
      for (int64_t row = row0; row < row1; ++row) {
        for (int64_t column = column0; column < column1; ++column) {
          dst[row * width + column] = static_cast<dst_t>(src[column * src_stride + row]);
        }
      }
    }
  }
}

// Where the runs of a strided source begin, in row-major order over its first `num_dims` dimensions.
class RunCursor {
 public:
  RunCursor(const StridedLayout& layout, int num_dims, int64_t run) : layout_(layout), num_dims_(num_dims) {
    for (int dim = num_dims - 1; dim >= 0; --dim) {
      index_[dim] = run % layout.sizes[dim];
      run /= layout.sizes[dim];
      offset_ += index_[dim] * layout.strides[dim];
    }
  }

  int64_t offset() const {
    return offset_;
  }

  void move_on() {
    for (int dim = num_dims_ - 1; dim >= 0; --dim) {
      offset_ += layout_.strides[dim];
      if (++index_[dim] < layout_.sizes[dim]) {
        return;
      }
      index_[dim] = 0;
      offset_ -= layout_.sizes[dim] * layout_.strides[dim];
    }
  }

 private:
  const StridedLayout& layout_;
  int num_dims_;
  int64_t offset_ = 0;
  std::array<int64_t, kMaxDims> index_;
};

// Runs of so few elements that their number is worth knowing when compiled.
template <int kLength, typename scalar_t>
void copy_short_runs(scalar_t* dst, const scalar_t* src, RunCursor cursor, int64_t runs) {
  for (int64_t run = 0; run < runs; ++run, cursor.move_on()) {
    std::memcpy(static_cast<void*>(dst + run * kLength), src + cursor.offset(), kLength * sizeof(scalar_t));
  }
}

template <typename dst_t, typename src_t>
void copy_runs(dst_t* dst, const src_t* src, RunCursor cursor, int64_t runs, int64_t length, int64_t stride) {
  if constexpr (std::is_same_v<dst_t, src_t>) {
    if (stride == 1) {
      switch (length) {
        case 2:
          return copy_short_runs<2>(dst, src, cursor, runs);
        case 3:
          return copy_short_runs<3>(dst, src, cursor, runs);
        case 4:
          return copy_short_runs<4>(dst, src, cursor, runs);
        case 5:
          return copy_short_runs<5>(dst, src, cursor, runs);
        case 6:
          return copy_short_runs<6>(dst, src, cursor, runs);
        case 8:
          return copy_short_runs<8>(dst, src, cursor, runs);
        default:
          break;
      }
    }
  }
  for (int64_t run = 0; run < runs; ++run, cursor.move_on()) {
    copy_run(dst + run * length, src + cursor.offset(), length, stride);
  }
}

// dst is contiguous; src is strided, coalesced. Threads share the outer dimensions, so no two write one element.
template <typename dst_t, typename src_t>
void copy_block(dst_t* dst, const src_t* src, const StridedLayout& layout) {
  if (layout.num_dims <= 1) {
    const int64_t numel = layout.num_dims == 0 ? 1 : layout.sizes[0];
    const int64_t stride = layout.num_dims == 0 ? 1 : layout.strides[0];
    at::parallel_for(0, numel, kGrainSize, [&](int64_t begin, int64_t end) {
      copy_run(dst + begin, src + begin * stride, end - begin, stride);
    });
    return;
  }
  const int last = layout.num_dims - 1;
  const bool transposed = layout.strides[last] != 1 && layout.strides[last - 1] == 1;
  const int outer_dims = transposed ? last - 1 : last;
  const int64_t width = layout.sizes[last];
  const int64_t inner = transposed ? layout.sizes[last - 1] * width : width;
  int64_t outer = 1;
  for (const auto dim : c10::irange(outer_dims)) {
    outer *= layout.sizes[dim];
  }
  at::parallel_for(0, outer, std::max<int64_t>(1, kGrainSize / inner), [&](int64_t begin, int64_t end) {
    if (!transposed) {
      copy_runs(
          dst + begin * inner, src, RunCursor(layout, outer_dims, begin), end - begin, width, layout.strides[last]);
      return;
    }
    for (const auto i : c10::irange(begin, end)) {
      const src_t* from = src + strided_offset(layout, outer_dims, i);
      copy_transposed(dst + i * inner, from, layout.sizes[last - 1], width, layout.strides[last]);
    }
  });
}

// Real to real or complex to complex, checked before.
template <typename dst_t>
void copy_from_any(dst_t* dst, const at::Tensor& block) {
  const StridedLayout layout = coalesced_layout(block);
  if constexpr (c10::is_complex<dst_t>::value) {
    AT_DISPATCH_COMPLEX_TYPES(
        block.scalar_type(), "assemble_rows", [&] { copy_block(dst, block.const_data_ptr<scalar_t>(), layout); });
  } else {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, block.scalar_type(), "assemble_rows", [&] {
      copy_block(dst, block.const_data_ptr<scalar_t>(), layout);
    });
  }
}

void assemble_rows_cpu_(const at::Tensor& rows, const std::optional<at::Tensor>& block) {
  check_assemble_rows_(rows, block);
  if (rows.numel() == 0) {
    return;
  }
  AT_DISPATCH_FLOATING_AND_COMPLEX_TYPES_AND2(at::kHalf, at::kBFloat16, rows.scalar_type(), "assemble_rows_", [&] {
    auto* dst = rows.mutable_data_ptr<scalar_t>();
    if (block.has_value()) {
      copy_from_any(dst, block->resolve_conj().resolve_neg());
    } else {
      std::memset(static_cast<void*>(dst), 0, rows.nbytes());
    }
  });
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, CPU, m) {
  m.impl("seed_basis", TORCH_FN(highgrad::ops::seed_basis_cpu));
  m.impl("assemble_rows_", TORCH_FN(highgrad::ops::assemble_rows_cpu_));
}
