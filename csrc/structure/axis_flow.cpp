#include "structure/axis_flow.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

namespace highgrad::structure {
namespace {

using Axes = std::vector<Digits>;

bool contains(const std::vector<int64_t>& dims, size_t axis) {
  return std::find(dims.begin(), dims.end(), static_cast<int64_t>(axis)) != dims.end();
}

// `from`'s digits for an axis of the same size, free ones otherwise.
Digits axis_of_size(const Axes& axes, const Shape& shape, size_t from, int64_t size) {
  return from < shape.size() && shape[from] == size ? axes[from] : all_free(size);
}

Digits pointwise(const Shape& out, const Shape& in, const Digits& digits) {
  if (out == in) {
    return digits;
  }
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    // Counted from the last axis. One that in lacks or has once is summed over.
    const size_t from = out.size() - in.size() + axis; // wraps where out has fewer axes
    result[axis] = axis_of_size(axes, out, from, in[axis]);
  }
  return join_axes(result);
}

Digits permuted(const std::vector<int64_t>& dims, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    result[dims[axis]] = axis_of_size(axes, out, axis, in[dims[axis]]);
  }
  return join_axes(result);
}

std::vector<int64_t> swapped(const std::vector<int64_t>& dims, size_t rank) {
  std::vector<int64_t> order(rank);
  std::iota(order.begin(), order.end(), 0);
  std::swap(order[dims[0]], order[dims[1]]);
  return order;
}

Digits reduced(const std::vector<int64_t>& dims, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  const bool keeps = out.size() == in.size();
  Axes result(in.size());
  size_t from = 0;
  for (size_t axis = 0; axis < in.size(); ++axis) {
    // None are all: of each, only an axis of size 1 can have its size kept.
    const bool is_reduced = contains(dims, axis);
    result[axis] = is_reduced ? all_free(in[axis]) : axis_of_size(axes, out, from, in[axis]);
    from += keeps || !is_reduced ? 1 : 0;
  }
  return join_axes(result);
}

// In's axes are out's, but for `dims`: these lie along out's as `slide(i)` of dims[i] says, or are free where it is
// null.
template <typename SlideOf>
Digits resized(
    const std::vector<int64_t>& dims,
    SlideOf&& slide,
    const Shape& out,
    const Shape& in,
    const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    const auto place = std::find(dims.begin(), dims.end(), static_cast<int64_t>(axis));
    if (place == dims.end()) {
      result[axis] = axis_of_size(axes, out, axis, in[axis]);
      continue;
    }
    // An axis may be rolled twice.
    const bool is_once = std::find(place + 1, dims.end(), *place) == dims.end();
    const Slide* along = is_once ? slide(static_cast<size_t>(place - dims.begin())) : nullptr;
    result[axis] = along == nullptr ? all_free(in[axis]) : slide_digits(*along, axes[axis], in[axis]);
  }
  return join_axes(result);
}

// Samples are the same, channels of one group depend on those of that group, and the other axes slide.
Digits convolved(const NodeAttributes& attributes, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  result[0] = axis_of_size(axes, out, 0, in[0]);
  const Digits group = split_by_axis(axes[1], {attributes.groups, out[1] / attributes.groups})[0];
  result[1] = join_axes({group, all_free(in[1] / attributes.groups)});
  for (size_t axis = 2; axis < in.size(); ++axis) {
    result[axis] = slide_digits(attributes.slides[axis - 2], axes[axis], in[axis]);
  }
  return join_axes(result);
}

// In's axis k is out's axis from(k), or free where that is negative.
template <typename From>
Digits rearranged(From&& from, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    const int64_t place = from(static_cast<int64_t>(axis));
    result[axis] = place < 0 ? all_free(in[axis]) : axis_of_size(axes, out, static_cast<size_t>(place), in[axis]);
  }
  return join_axes(result);
}

// Of a convolution's weight, whose own channels are out's in each group, and of its bias.
Digits convolved_by(const NodeAttributes& attributes, const Shape& out, const Shape& in, const Digits& digits) {
  if (in.size() == 1) {
    return rearranged([](int64_t) { return 1; }, out, in, digits);
  }
  if (attributes.slides.front().kind != Slide::Kind::kUnder) {
    return rearranged([](int64_t axis) { return axis == 0 ? 1 : -1; }, out, in, digits);
  }
  // Transposed: [input's channels, out's of a group, ...].
  const int64_t groups = attributes.groups;
  const Axes channels = split_by_axis(split_by_axis(digits, out)[1], {groups, out[1] / groups});
  Axes result{join_axes({channels[0], all_free(in[0] / groups)}), channels[1]};
  for (size_t axis = 2; axis < in.size(); ++axis) {
    result.push_back(all_free(in[axis]));
  }
  return join_axes(result);
}

// In's axes `dims`, ascending, are replaced by those of their indices.
Digits indexed(const std::vector<int64_t>& dims, const Shape& out, const Shape& in, const Digits& digits) {
  const auto count = static_cast<int64_t>(dims.size());
  const int64_t gained = static_cast<int64_t>(out.size()) - (static_cast<int64_t>(in.size()) - count);
  const bool are_neighbours = dims.back() - dims.front() == count - 1;
  const auto from = [&](int64_t axis) {
    const auto next = std::lower_bound(dims.begin(), dims.end(), axis);
    if (next != dims.end() && *next == axis) {
      return int64_t{-1};
    }
    const int64_t left_out = next - dims.begin();
    return axis - left_out + (left_out > 0 || !are_neighbours ? gained : 0);
  };
  return rearranged(from, out, in, digits);
}

// In's axis `dim` at one position: what all of out depends on, that position does.
Digits taken(int64_t dim, int64_t position, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    const auto d = static_cast<int64_t>(axis);
    result[axis] = d == dim ? all_free(in[axis]) : axis_of_size(axes, out, axis - (d > dim ? 1 : 0), in[axis]);
  }
  const auto common = std::find_if(
      digits.begin(), digits.end(), [](const Digit& digit) { return digit.size == 1 && digit.window != nullptr; });
  if (common != digits.end()) {
    const int64_t size = in[dim];
    result[dim] =
        slide_digits({Slide::Kind::kOver, 1, 1, position < 0 ? -position - size : -position}, {*common}, size);
  }
  return join_axes(result);
}

// Out's axis `dim` has in at one position.
Digits inserted(int64_t dim, int64_t position, const Shape& out, const Shape& in, const Digits& digits) {
  const Slide slide{Slide::Kind::kOver, 1, 1, position < 0 ? position + out[dim] : position};
  const Digits at_position = slide_digits(slide, split_by_axis(digits, out)[dim], 1);
  return join_axes(
      {at_position, rearranged([&](int64_t axis) { return axis + (axis >= dim ? 1 : 0); }, out, in, digits)});
}

Digits unfolded(const NodeAttributes& attributes, const Shape& out, const Shape& in, const Digits& digits) {
  const Axes axes = split_by_axis(digits, out);
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    result[axis] = static_cast<int64_t>(axis) == attributes.dims[0]
        ? slide_digits(attributes.slides[0], axes[axis], in[axis])
        : axis_of_size(axes, out, axis, in[axis]);
  }
  return join_axes(result);
}

// What is written to the view of a base, which out is.
Digits written(const NodeAttributes& attributes, const Shape& out, const Shape& in, const Digits& digits) {
  if (attributes.slides.size() < attributes.view.size() || attributes.view.size() < in.size()) {
    return all_free(numel_of(in));
  }
  const Axes axes = split_by_axis(digits, out);
  Axes view;
  Axes fixed;
  for (size_t i = 0; i < attributes.slides.size(); ++i) {
    const int64_t along = attributes.dims[i];
    const bool is_fixed = i >= attributes.view.size();
    const int64_t size = is_fixed ? 1 : attributes.view[i];
    (is_fixed ? fixed : view)
        .push_back(along < 0 ? all_free(size) : slide_digits(attributes.slides[i], axes[along], size));
  }
  fixed.push_back(pointwise(attributes.view, in, join_axes(view)));
  return join_axes(fixed);
}

Digits product(size_t k, size_t num_ins, const Shape& out, const Shape& in, const Digits& digits) {
  if (k + 2 < num_ins) {
    return pointwise(out, in, digits);
  }
  const Axes axes = split_by_axis(digits, out);
  const bool is_left = k + 2 == num_ins;
  Axes result(in.size());
  for (size_t axis = 0; axis < in.size(); ++axis) {
    // in is [..., M, K] or [..., K, N], out [..., M, N], where a vector has no M or no N.
    const bool is_last = axis + 1 == in.size();
    const bool is_inner = is_left ? is_last : axis + 2 == in.size() || in.size() == 1;
    const size_t from = !is_left && is_last ? out.size() - 1 : axis;
    result[axis] = is_inner ? all_free(in[axis]) : axis_of_size(axes, out, from, in[axis]);
  }
  return join_axes(result);
}

} // namespace

Digits flow_through(
    Flow flow,
    const NodeAttributes& attributes,
    uint32_t nr,
    size_t k,
    size_t num_ins,
    const Shape& out,
    const Shape& in,
    const Digits& digits) {
  const Digits unknown = all_free(numel_of(in));
  const std::vector<int64_t>& dims = attributes.dims;
  const std::vector<Slide>& slides = attributes.slides;
  const auto slide_of = [&](size_t i) -> const Slide* {
    const size_t part = std::max<size_t>(k, nr);
    const size_t at = slides.size() == dims.size() ? i : part;
    return at < slides.size() ? &slides[at] : nullptr;
  };
  switch (flow) {
    case Flow::kOther:
      return unknown;
    case Flow::kPointwise:
      return pointwise(out, in, digits);
    case Flow::kFlat:
      return numel_of(in) == numel_of(out) ? digits : unknown;
    case Flow::kPermute:
      return dims.size() == in.size() && in.size() == out.size() ? permuted(dims, out, in, digits) : unknown;
    case Flow::kSwap:
      // A tensor without axes may be transposed, too.
      return in.size() == out.size() && !in.empty() ? permuted(swapped(dims, in.size()), out, in, digits) : unknown;
    case Flow::kReduce:
      return reduced(dims, out, in, digits);
    case Flow::kMix:
      // Weights and biases besides the input have an axis for each of `dims` alone, or else its shape, as a second
      // factor has. No dims are all, as roll's.
      if (in != out || (dims.empty() && in.size() != 1)) {
        return unknown;
      }
      return resized(dims.empty() ? std::vector<int64_t>{0} : dims, slide_of, out, in, digits);
    case Flow::kResize:
      return in.size() != out.size() ? unknown : resized(dims, slide_of, out, in, digits);
    case Flow::kIndex:
      return dims.empty() || dims.back() >= static_cast<int64_t>(in.size()) ? unknown : indexed(dims, out, in, digits);
    case Flow::kTake:
      return in.size() != out.size() + 1
          ? unknown
          : taken(dims[0], attributes.others.empty() ? nr : attributes.others[0], out, in, digits);
    case Flow::kInsert:
      return in.size() + 1 != out.size()
          ? unknown
          : inserted(
                dims[0], attributes.others.empty() ? static_cast<int64_t>(k) : attributes.others[0], out, in, digits);
    case Flow::kUnfold:
      return in.size() + 1 != out.size() || slides.size() != 1 ? unknown : unfolded(attributes, out, in, digits);
    case Flow::kWrite:
      return k == 0 ? pointwise(out, in, digits) : written(attributes, out, in, digits);
    case Flow::kMatrixProduct:
      return product(k, num_ins, out, in, digits);
    case Flow::kMatrices: {
      // With more axes of batches than in, out has been broadcast.
      const bool is_vector = k == 1 && attributes.is_vector;
      const std::vector<int64_t>& others = attributes.others;
      const bool has_sides = others.size() == 2 && static_cast<int64_t>(k) == others[0] && in.size() == out.size();
      return in.size() + (is_vector ? 1 : 0) < out.size()
          ? unknown
          : rearranged(
                [&](int64_t axis) {
                  const auto rank = static_cast<int64_t>(in.size());
                  const bool is_kept = axis + (is_vector ? 1 : 2) < rank || (has_sides && axis + others[1] == rank);
                  return is_kept ? axis : -1;
                },
                out,
                in,
                digits);
    }
    case Flow::kPairs:
      return in.size() != out.size() || k > 1
          ? unknown
          : rearranged(
                [&](int64_t axis) {
                  const auto rank = static_cast<int64_t>(in.size());
                  return axis + 1 == rank ? -1 : axis + 2 == rank && k == 1 ? rank - 1 : axis;
                },
                out,
                in,
                digits);
    case Flow::kFirst:
      return k > 0 ? unknown : rearranged([](int64_t axis) { return axis == 0 ? 0 : -1; }, out, in, digits);
    case Flow::kSample:
      return in.size() != out.size() || k > 1
          ? unknown
          : rearranged(
                [&](int64_t axis) {
                  if (k == 0) {
                    return axis < 2 ? axis : -1;
                  }
                  return axis + 1 == static_cast<int64_t>(in.size()) ? -1 : axis + (axis > 0 ? 1 : 0);
                },
                out,
                in,
                digits);
    case Flow::kSequence: {
      const bool is_state = k + 2 >= num_ins;
      if (attributes.others.empty() || (k > 0 && !is_state) || in.size() < 2 || out.size() < 2) {
        return unknown;
      }
      const int64_t to = k == 0 ? attributes.others[0] : static_cast<int64_t>(in.size()) - 2;
      const int64_t from = nr == 0 ? attributes.others[0] : static_cast<int64_t>(out.size()) - 2;
      return rearranged([&](int64_t axis) { return axis == to ? from : -1; }, out, in, digits);
    }
    case Flow::kSeries:
      return in.size() == out.size() ? resized(
                                           {0}, [](size_t) -> const Slide* { return nullptr; }, out, in, digits)
                                     : pointwise(out, in, digits);
    case Flow::kConvolution:
      if (k > 0) {
        return slides.size() + 2 == out.size() ? convolved_by(attributes, out, in, digits) : unknown;
      }
      if (in.size() != out.size()) {
        return unknown;
      }
      return slides.size() + 2 == in.size()
          ? convolved(attributes, out, in, digits)
          : rearranged([&](int64_t axis) { return axis == 0 ? 0 : -1; }, out, in, digits);
  }
  return unknown;
}

} // namespace highgrad::structure
