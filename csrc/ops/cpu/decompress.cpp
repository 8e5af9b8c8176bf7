#include "ops/decompress.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace highgrad::ops {
namespace {

// Elements below which a second thread costs more than it saves: of a copy, and of bytes set to zero.
constexpr int64_t kGrainSize = 1 << 14;
constexpr int64_t kGrainBytes = 1 << 18;

const int64_t* data_of(const at::Tensor& index) {
  return index.const_data_ptr<int64_t>();
}

// Memory of this size comes fresh from the system, page by page: a large Jacobian of zeros takes longer to map than to
// write, unless the pages are large.
constexpr int64_t kFreshBytes = int64_t{32} << 20;

void zero(void* data, int64_t bytes) {
#ifdef __linux__
  if (bytes >= kFreshBytes) {
    constexpr uintptr_t kPage = 1 << 12;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kPage - 1);
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE); // a hint, which may be ignored
  }
#endif
  at::parallel_for(0, bytes, kGrainBytes, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(data) + begin, 0, static_cast<size_t>(end - begin));
  });
}

void check_range(const char* name, bool in_range) {
  TORCH_CHECK_INDEX(in_range, name, ": expected every source and target to be a place in its tensor");
}

// An element as bytes: what is only moved needs no type.
struct alignas(16) Wide {
  int64_t halves[2];
};

template <typename Body>
void dispatch_size(size_t size, Body&& body) {
  switch (size) {
    case 2:
      return body(int16_t());
    case 4:
      return body(int32_t());
    case 8:
      return body(int64_t());
    default:
      return body(Wide());
  }
}

at::Tensor decompress_cpu(
    const at::Tensor& compressed,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    at::IntArrayRef shape) {
  const at::Tensor result = at::empty(shape, compressed.options().layout(at::kStrided));
  check_entries("decompress", compressed, source, target, result.numel());
  const at::Tensor from = compressed.resolve_conj().resolve_neg().contiguous();
  const at::Tensor sources = source.contiguous();
  const at::Tensor targets = target.has_value() ? target->contiguous() : at::Tensor();
  if (targets.defined()) {
    zero(result.mutable_data_ptr(), static_cast<int64_t>(result.nbytes()));
  }
  const int64_t* source_data = data_of(sources);
  const int64_t* target_data = targets.defined() ? data_of(targets) : nullptr;
  const auto from_numel = static_cast<uint64_t>(from.numel());
  const auto result_numel = static_cast<uint64_t>(result.numel());
  std::atomic<bool> in_range = true;
  dispatch_size(result.element_size(), [&](auto tag) {
    using element_t = decltype(tag);
    const auto* src = static_cast<const element_t*>(from.const_data_ptr());
    auto* dst = static_cast<element_t*>(result.mutable_data_ptr());
    at::parallel_for(0, sources.numel(), kGrainSize, [&](int64_t begin, int64_t end) {
      for (const auto k : c10::irange(begin, end)) {
        const auto place = static_cast<uint64_t>(target_data == nullptr ? k : target_data[k]);
        if (static_cast<uint64_t>(source_data[k]) >= from_numel || place >= result_numel) {
          in_range = false;
          return;
        }
        dst[place] = src[source_data[k]];
      }
    });
  });
  check_range("decompress", in_range);
  return result;
}

at::Tensor compress_cpu(
    const at::Tensor& values,
    const at::Tensor& source,
    const std::optional<at::Tensor>& target,
    at::IntArrayRef shape) {
  check_entries("compress", values, source, target, values.numel());
  const at::Tensor result = at::zeros(shape, values.options().layout(at::kStrided));
  const at::Tensor from = values.resolve_conj().resolve_neg().contiguous();
  const at::Tensor sources = source.contiguous();
  const at::Tensor targets = target.has_value() ? target->contiguous() : at::Tensor();
  const int64_t* source_data = data_of(sources);
  const int64_t* target_data = targets.defined() ? data_of(targets) : nullptr;
  const auto from_numel = static_cast<uint64_t>(from.numel());
  const auto result_numel = static_cast<uint64_t>(result.numel());
  bool in_range = true;
  // Sources may repeat, so one thread adds them all.
  AT_DISPATCH_FLOATING_AND_COMPLEX_TYPES_AND2(at::kHalf, at::kBFloat16, result.scalar_type(), "compress", [&] {
    const auto* src = from.const_data_ptr<scalar_t>();
    auto* dst = result.mutable_data_ptr<scalar_t>();
    for (const auto k : c10::irange(sources.numel())) {
      const auto place = static_cast<uint64_t>(target_data == nullptr ? k : target_data[k]);
      if (static_cast<uint64_t>(source_data[k]) >= result_numel || place >= from_numel) {
        in_range = false;
        break;
      }
      dst[source_data[k]] += src[place];
    }
  });
  check_range("compress", in_range);
  return result;
}

} // namespace
} // namespace highgrad::ops

TORCH_LIBRARY_IMPL(highgrad_ext, CPU, m) {
  m.impl("decompress", TORCH_FN(highgrad::ops::decompress_cpu));
  m.impl("compress", TORCH_FN(highgrad::ops::compress_cpu));
}
