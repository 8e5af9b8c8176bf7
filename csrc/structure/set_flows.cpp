#include "structure/set_flows.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace highgrad::structure {
namespace {

// What the tensors that a flow makes take by themselves, in steps.
constexpr int64_t kFlowSteps = 3000;

bool says_nothing(const Digit& digit) {
  return digit.size == 1 && digit.window != nullptr && digit.window->size == 1 && digit.window->arcs[0].count == 1;
}

const int32_t* data_of(const at::Tensor& sets) {
  return sets.const_data_ptr<int32_t>();
}

} // namespace

at::Tensor SetFlows::along_ties(Digits ties, const Labelled& in, const Shape& out) {
  const int64_t numel = numel_of(out);
  ties.erase(std::remove_if(ties.begin(), ties.end(), says_nothing), ties.end());
  ties = join_axes({ties});
  if (ties.size() == 1 && ties[0].is_equal() && ties[0].stride == 1 && ties[0].size == numel) {
    return in.sets.reshape(out);
  }
  at::Tensor sets = without_free(ties, in.sets);
  for (size_t k = 0; k < ties.size(); ++k) {
    if (ties[k].window != nullptr) {
      sets = slide(*ties[k].window, sets, static_cast<int64_t>(k));
      ties[k] = {ties[k].out_size(), ties[k].stride};
    }
  }
  return repeated(ties, sets, numel).reshape(out);
}

at::Tensor SetFlows::to_all(const at::Tensor& in, const Shape& out) {
  const at::Tensor all = in.contiguous();
  const bool may_unite = sets_.spend(2 * all.numel() + numel_of(out));
  std::vector<int32_t> some(data_of(all), data_of(all) + all.numel());
  return at::full(out, may_unite ? sets_.unite(some) : ColumnSets::kEmpty, kLabels);
}

at::Tensor SetFlows::united(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined() || a.is_same(b)) {
    return a.defined() ? a : b;
  }
  const at::Tensor left = a.contiguous();
  const at::Tensor right = b.contiguous();
  at::Tensor both = at::empty(left.sizes(), kLabels);
  const int32_t* x = data_of(left);
  const int32_t* y = data_of(right);
  auto* to = both.mutable_data_ptr<int32_t>();
  if (!sets_.spend(kFlowSteps / 2 + both.numel())) {
    return a;
  }
  int32_t last_x = 0;
  int32_t last_y = 0;
  int32_t last = 0;
  for (int64_t k = 0; k < both.numel(); ++k) {
    if (x[k] != last_x || y[k] != last_y) {
      last_x = x[k];
      last_y = y[k];
      last = sets_.unite(last_x, last_y);
    }
    to[k] = last;
  }
  return both;
}

at::Tensor SetFlows::put(const at::Tensor& base, bool keeps_base, const at::Tensor& places, const at::Tensor& values) {
  at::Tensor out = base.clone();
  auto* to = out.mutable_data_ptr<int32_t>();
  const at::Tensor of_places = places.contiguous();
  const int32_t* place = data_of(of_places);
  const int64_t count = of_places.numel();
  if (!sets_.spend(kFlowSteps + 4 * out.numel() + 4 * count)) {
    return out;
  }
  // Values by place: a counting sort.
  std::vector<int64_t> end(out.numel() + 1, 0);
  for (int64_t k = 0; k < count; ++k) {
    ++end[place[k]];
  }
  for (size_t k = 1; k < end.size(); ++k) {
    end[k] += end[k - 1];
  }
  std::vector<int64_t> begin(out.numel() + 1, 0);
  std::copy(end.begin(), end.end() - 1, begin.begin() + 1);
  const std::vector<int64_t> first = begin;
  const at::Tensor of_values = values.defined() ? values.contiguous() : values;
  std::vector<int32_t> by_place(count, ColumnSets::kEmpty);
  for (int64_t k = 0; k < count; ++k) {
    by_place[begin[place[k]]++] = of_values.defined() ? data_of(of_values)[k] : ColumnSets::kEmpty;
  }
  std::vector<int32_t> some;
  for (int64_t target = 1; target <= out.numel(); ++target) {
    if (first[target] == end[target]) {
      continue;
    }
    some.assign(by_place.begin() + first[target], by_place.begin() + end[target]);
    if (keeps_base) {
      some.push_back(to[target - 1]);
    }
    to[target - 1] = some.size() == 1 ? some[0] : sets_.unite(some);
  }
  return out;
}

at::Tensor SetFlows::without_free(Digits& digits, const at::Tensor& in) {
  std::vector<int64_t> sizes;
  std::vector<int64_t> kept;
  std::vector<int64_t> free;
  for (size_t k = 0; k < digits.size(); ++k) {
    sizes.push_back(digits[k].size);
    (digits[k].is_free() ? free : kept).push_back(static_cast<int64_t>(k));
  }
  at::Tensor sets = in.reshape(sizes);
  if (free.empty()) {
    return sets;
  }
  Shape rest;
  Digits of_rest;
  for (const int64_t k : kept) {
    rest.push_back(sizes[k]);
    of_rest.push_back(digits[k]);
  }
  sets_.spend(kFlowSteps);
  kept.insert(kept.end(), free.begin(), free.end());
  sets = sets.permute(kept).contiguous();
  const int32_t* from = data_of(sets);
  const int64_t count = numel_of(rest);
  const int64_t each = sets.numel() / count;
  at::Tensor reduced = at::empty(rest, kLabels);
  auto* to = reduced.mutable_data_ptr<int32_t>();
  std::vector<int32_t> some;
  for (int64_t k = 0; k < count && sets_.spend(1 + 2 * each); ++k) {
    some.assign(from + k * each, from + (k + 1) * each);
    to[k] = sets_.unite(some);
  }
  digits = std::move(of_rest);
  return reduced;
}

at::Tensor SetFlows::slide(const Window& window, const at::Tensor& in, int64_t dim) {
  const at::Tensor sets = in.movedim(dim, -1).contiguous();
  const auto in_size = static_cast<int64_t>(window.arcs.size());
  // In's positions by out's: a counting sort.
  std::vector<int64_t> begin(window.size + 2, 0);
  int64_t reached = kFlowSteps + in_size + window.size;
  for (const Arc& arc : window.arcs) {
    reached += 2 * arc.count;
  }
  const int64_t count = sets.numel() / in_size;
  Shape shape = sets.sizes().vec();
  shape.back() = window.size;
  if (!sets_.spend(reached)) {
    return at::zeros(shape, kLabels).movedim(-1, dim);
  }
  for (const Arc& arc : window.arcs) {
    for (int64_t k = 0; k < arc.count; ++k) {
      ++begin[(arc.first + k) % window.size + 2];
    }
  }
  for (size_t k = 3; k < begin.size(); ++k) {
    begin[k] += begin[k - 1];
  }
  std::vector<int64_t> positions(begin.back());
  for (int64_t position = 0; position < in_size; ++position) {
    const Arc arc = window.arcs[position];
    for (int64_t k = 0; k < arc.count; ++k) {
      positions[begin[(arc.first + k) % window.size + 1]++] = position;
    }
  }
  at::Tensor moved = at::empty(shape, kLabels);
  auto* to = moved.mutable_data_ptr<int32_t>();
  std::vector<int32_t> some;
  for (int64_t row = 0; row < count && sets_.spend(window.size); ++row) {
    const int32_t* from = data_of(sets) + row * in_size;
    for (int64_t position = 0; position < window.size; ++position) {
      const int64_t* own = positions.data() + begin[position];
      const int64_t own_size = begin[position + 1] - begin[position];
      if (own_size <= 1) {
        *to++ = own_size == 0 ? ColumnSets::kEmpty : from[own[0]];
        continue;
      }
      some.clear();
      for (int64_t k = 0; k < own_size; ++k) {
        some.push_back(from[own[k]]);
      }
      *to++ = sets_.unite(some);
    }
  }
  return moved.movedim(-1, dim);
}

at::Tensor SetFlows::repeated(const Digits& digits, const at::Tensor& in, int64_t numel) {
  std::vector<int64_t> cuts{1, numel};
  for (const Digit& digit : digits) {
    cuts.push_back(digit.stride);
    cuts.push_back(digit.stride * digit.size);
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  bool lines_up = cuts.back() == numel;
  for (size_t k = 1; k < cuts.size(); ++k) {
    lines_up &= cuts[k] % cuts[k - 1] == 0;
  }
  if (!lines_up) {
    return to_all(in, {numel});
  }
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  for (size_t k = cuts.size(); k-- > 1;) {
    int64_t stride = 0;
    for (size_t d = 0; d < digits.size(); ++d) {
      if (digits[d].stride <= cuts[k - 1] && cuts[k] <= digits[d].stride * digits[d].size) {
        stride += in.stride(static_cast<int64_t>(d)) * (cuts[k - 1] / digits[d].stride);
      }
    }
    sizes.push_back(cuts[k] / cuts[k - 1]);
    strides.push_back(stride);
  }
  sets_.spend(numel);
  return in.as_strided(sizes, strides);
}

} // namespace highgrad::structure
