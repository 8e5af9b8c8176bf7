#include "structure/picks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/channel_shuffle.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/im2col.h>
#include <ATen/ops/index.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/masked_select.h>
#include <ATen/ops/pixel_shuffle.h>
#include <ATen/ops/pixel_unshuffle.h>
#include <ATen/ops/reflection_pad1d.h>
#include <ATen/ops/reflection_pad2d.h>
#include <ATen/ops/reflection_pad3d.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/replication_pad1d.h>
#include <ATen/ops/replication_pad2d.h>
#include <ATen/ops/replication_pad3d.h>
#include <ATen/ops/rot90.h>
#include <ATen/ops/take.h>
#include <ATen/ops/triu_indices.h>
#include <ATen/ops/zeros.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

namespace highgrad::structure {
namespace {

// A tensor may have few elements in much memory: so many times as much is looked at.
constexpr int64_t kMostMemory = 16;

// Figures that were read into NodeAttributes::others, in order.
class Figures {
 public:
  explicit Figures(const std::vector<int64_t>& all) : all_(all) {}

  int64_t next() {
    return all_.at(at_++);
  }
  std::vector<int64_t> next(int64_t count) {
    std::vector<int64_t> some;
    for (int64_t k = 0; k < count; ++k) {
      some.push_back(next());
    }
    return some;
  }
  std::optional<int64_t> next_optional() {
    return next() != 0 ? std::optional(next()) : std::nullopt;
  }
  bool is_at_end() const {
    return at_ == all_.size();
  }

 private:
  const std::vector<int64_t>& all_;
  size_t at_ = 0;
};

struct Geometry {
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  int64_t offset = 0;

  explicit Geometry(Figures& figures) {
    const int64_t rank = figures.next();
    sizes = figures.next(rank);
    strides = figures.next(rank);
    offset = figures.next();
  }

  int64_t last_place() const {
    int64_t place = offset;
    for (size_t k = 0; k < sizes.size(); ++k) {
      place += (sizes[k] - 1) * strides[k];
    }
    return place;
  }
};

// What lies at the places of the view, in memory that has the labels at those of the base.
std::optional<at::Tensor> strided(const std::vector<int64_t>& figures, const at::Tensor& labels) {
  Figures rest(figures);
  Geometry base(rest);
  Geometry view(rest);
  const int64_t begin = std::min(base.offset, view.offset);
  base.offset -= begin;
  view.offset -= begin;
  const int64_t end = std::max(base.last_place(), view.last_place()) + 1;
  if (labels.sizes() != base.sizes || end > kMostMemory * labels.numel()) {
    return std::nullopt;
  }
  const at::Tensor memory = at::zeros({end}, labels.options());
  const at::Tensor own = memory.as_strided(base.sizes, base.strides, base.offset);
  own.copy_(labels);
  return own.equal(labels) ? std::optional(memory.as_strided(view.sizes, view.strides, view.offset)) : std::nullopt;
}

at::Tensor sliced(const NodeAttributes& attributes, const at::Tensor& labels) {
  Figures figures(attributes.others);
  const auto start = figures.next_optional();
  const auto end = figures.next_optional();
  return labels.slice(attributes.dims.at(0), start, end, figures.next());
}

at::Tensor indexed(const NodeAttributes& attributes, const at::Tensor& labels) {
  c10::List<std::optional<at::Tensor>> indices;
  for (const at::Tensor& index : attributes.indices) {
    indices.push_back(index.defined() ? std::optional(index.cpu()) : std::nullopt);
  }
  return at::index(labels, indices);
}

at::Tensor diagonal(const NodeAttributes& attributes, const at::Tensor& labels) {
  Figures figures(attributes.others);
  const int64_t dim1 = figures.next();
  const int64_t dim2 = figures.next();
  return labels.diagonal(figures.next(), dim1, dim2);
}

at::Tensor selected(const NodeAttributes& attributes, int64_t part, const at::Tensor& labels) {
  Figures figures(attributes.others);
  const int64_t dim = attributes.dims.empty() ? figures.next() : attributes.dims[0];
  return labels.select(dim, figures.is_at_end() ? part : figures.next());
}

at::Tensor unfolded(const NodeAttributes& attributes, const at::Tensor& labels) {
  Figures figures(attributes.others);
  const int64_t dim = attributes.dims.empty() ? figures.next() : attributes.dims[0];
  const int64_t size = figures.next();
  return labels.unfold(dim, size, figures.next());
}

at::Tensor patches(const NodeAttributes& attributes, const at::Tensor& labels) {
  Figures figures(attributes.others);
  const auto kernel = figures.next(2);
  const auto dilation = figures.next(2);
  const auto padding = figures.next(2);
  return at::im2col(labels, kernel, dilation, padding, figures.next(2));
}

at::Tensor padded(const std::vector<int64_t>& padding, bool reflects, const at::Tensor& labels) {
  switch (padding.size()) {
    case 2:
      return reflects ? at::reflection_pad1d(labels, padding) : at::replication_pad1d(labels, padding);
    case 4:
      return reflects ? at::reflection_pad2d(labels, padding) : at::replication_pad2d(labels, padding);
    default:
      return reflects ? at::reflection_pad3d(labels, padding) : at::replication_pad3d(labels, padding);
  }
}

at::Tensor turned(const NodeAttributes& attributes, const at::Tensor& labels) {
  Figures figures(attributes.others);
  const int64_t quarters = figures.next();
  return at::rot90(labels, quarters, figures.next(2));
}

// Of a matrix that has these, rows and columns of each, on its diagonal.
at::Tensor block(const std::vector<int64_t>& sizes, int64_t part, const at::Tensor& labels) {
  int64_t row = 0;
  int64_t column = 0;
  for (int64_t k = 0; k < part; ++k) {
    row += sizes.at(2 * k);
    column += sizes.at(2 * k + 1);
  }
  return labels.narrow(0, row, sizes.at(2 * part)).narrow(1, column, sizes.at(2 * part + 1));
}

// The same elements of the same memory, at one time.
bool are_one(const at::Tensor& a, const at::Tensor& b) {
  return a.const_data_ptr() == b.const_data_ptr() && a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
      a.strides() == b.strides();
}

// Each out is a row, of one element, and so is each element of in.
SummedRows elements_of_pairs(const Shape& in) {
  const at::Tensor first_and_second = at::triu_indices(in.at(0), in.at(0), 1, at::kLong).reshape({-1});
  const at::Tensor elements = at::arange(in.at(0) * in.at(1), at::kLong).view({in.at(0), in.at(1)});
  const at::Tensor from = elements.index_select(0, first_and_second);
  const at::Tensor to = at::arange(first_and_second.numel() / 2, at::kLong).repeat({2}).unsqueeze(1).expand_as(from);
  return {from.reshape({-1}), to.reshape({-1})};
}

// By the number of rows of each, or by where each begins, and the end.
SummedRows segments(const at::Tensor& figures, bool are_offsets) {
  const at::Tensor to = at::repeat_interleave(are_offsets ? figures.diff() : figures);
  const at::Tensor from = at::arange(to.numel(), at::kLong);
  return {are_offsets ? from + figures.slice(0, 0, 1) : from, to};
}

// What torch has no kernel for with integers; in double, all labels are exact.
template <typename Op>
at::Tensor in_double(const at::Tensor& labels, Op&& op) {
  return op(labels.to(at::kDouble)).to(labels.scalar_type());
}

} // namespace

std::optional<at::Tensor> picked_labels(
    Pick pick,
    const NodeAttributes& attributes,
    int64_t part,
    const at::Tensor& labels) {
  if (!attributes.has_places) {
    return std::nullopt;
  }
  const std::vector<int64_t>& others = attributes.others;
  const auto index = [&] { return attributes.indices.at(0).cpu(); };
  const auto dim = [&] { return attributes.dims.at(0); };
  switch (pick) {
    case Pick::kNone:
    case Pick::kRows:
    case Pick::kSegments:
    case Pick::kPairs:
      return std::nullopt;
    case Pick::kAll:
      return labels;
    case Pick::kIndex:
      return indexed(attributes, labels);
    case Pick::kIndexSelect:
      return at::index_select(labels, dim(), index());
    case Pick::kGather:
      return at::gather(labels, dim(), index());
    case Pick::kTake:
      return at::take(labels, index().to(at::kLong));
    case Pick::kMask:
      return at::masked_select(labels, index());
    case Pick::kEmbedding:
      return at::index_select(labels, 0, index().reshape({-1}));
    case Pick::kRepeat:
      return labels.repeat(others);
    case Pick::kStrided:
      return strided(others, labels);
    case Pick::kDiagonal:
      return diagonal(attributes, labels);
    case Pick::kSlice:
      return sliced(attributes, labels);
    case Pick::kSelect:
      return selected(attributes, part, labels);
    case Pick::kUnfold:
      return unfolded(attributes, labels);
    case Pick::kLower:
      return labels.tril(others.at(0));
    case Pick::kUpper:
      return labels.triu(others.at(0));
    case Pick::kPatches:
      return in_double(labels, [&](const at::Tensor& all) { return patches(attributes, all); });
    case Pick::kReflected:
    case Pick::kReplicated:
      return in_double(labels, [&](const at::Tensor& all) { return padded(others, pick == Pick::kReflected, all); });
    case Pick::kPixelShuffle:
      return in_double(labels, [&](const at::Tensor& all) { return at::pixel_shuffle(all, others.at(0)); });
    case Pick::kPixelUnshuffle:
      return in_double(labels, [&](const at::Tensor& all) { return at::pixel_unshuffle(all, others.at(0)); });
    case Pick::kChannelShuffle:
      return in_double(labels, [&](const at::Tensor& all) { return at::channel_shuffle(all, others.at(0)); });
    case Pick::kTurned:
      return turned(attributes, labels);
    case Pick::kBlock:
      return block(others, part, labels);
  }
  return std::nullopt;
}

std::optional<SummedRows> summed_rows(Pick pick, const NodeAttributes& attributes, const Shape& in, int64_t rows) {
  if (!attributes.has_places) {
    return std::nullopt;
  }
  if (pick == Pick::kPairs) {
    return elements_of_pairs(in);
  }
  if (pick == Pick::kSegments) {
    return segments(attributes.indices.at(0).cpu().to(at::kLong), attributes.others.at(1) != 0);
  }
  if (attributes.indices.size() != 2) {
    return std::nullopt;
  }
  const at::Tensor from = attributes.indices[0].cpu().to(at::kLong).reshape({-1});
  at::Tensor to = attributes.indices[1].cpu().to(at::kLong).reshape({-1});
  if (attributes.others.at(1) != 0) {
    // Where each row of out begins, with or without the end of the last.
    if (to.numel() == rows) {
      to = at::cat({to, at::full({1}, from.numel(), to.options())});
    }
    to = at::repeat_interleave(to.diff());
  }
  return to.numel() == from.numel() ? std::optional(SummedRows{from, to}) : std::nullopt;
}

std::optional<at::Tensor> labels_of_view(const NodeAttributes& of_slices, const at::Tensor& labels) {
  return of_slices.has_places ? strided(of_slices.others, labels) : std::nullopt;
}

std::vector<at::Tensor> copy_indices(c10::ArrayRef<at::Tensor> indices) {
  const BelowModes below;
  std::vector<at::Tensor> copies;
  std::map<const void*, size_t> last_at;
  for (const auto k : c10::irange(indices.size())) {
    if (!indices[k].defined()) {
      copies.emplace_back();
      continue;
    }
    const auto [entry, is_new] = last_at.emplace(indices[k].const_data_ptr(), k);
    if (is_new || !are_one(indices[entry->second], indices[k])) {
      copies.push_back(indices[k].detach().clone());
      entry->second = k;
    } else {
      copies.push_back(copies[entry->second]);
    }
  }
  return copies;
}

bool same_indices(c10::ArrayRef<at::Tensor> kept, c10::ArrayRef<at::Tensor> indices) {
  if (kept.size() != indices.size()) {
    return false;
  }
  const BelowModes below;
  std::map<std::pair<const void*, const void*>, size_t> last_at;
  for (const auto k : c10::irange(kept.size())) {
    if (kept[k].defined() != indices[k].defined()) {
      return false;
    }
    if (!kept[k].defined()) {
      continue;
    }
    const auto [entry, is_new] = last_at.emplace(std::pair(kept[k].const_data_ptr(), indices[k].const_data_ptr()), k);
    // Copies that begin at one place are one, or empty.
    if (!is_new && are_one(indices[entry->second], indices[k])) {
      continue;
    }
    entry->second = k;
    if (kept[k].device() != indices[k].device() || kept[k].scalar_type() != indices[k].scalar_type() ||
        !at::equal(kept[k], indices[k])) {
      return false;
    }
  }
  return true;
}

} // namespace highgrad::structure
