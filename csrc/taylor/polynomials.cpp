#include "taylor/polynomials.h"

#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/scatter_add.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "ops/symmetric_index.h"

namespace highgrad::taylor {
namespace {

// Ranks that are kept for the next call: 64 MiB.
constexpr size_t kKeptRanks = size_t{1} << 24;
// Likewise on a device that is not the CPU: 8 MiB.
constexpr int64_t kKeptIndex = int64_t{1} << 20;
// Elements of all rows that are multiplied together, so that they stay in the nearest caches.
constexpr int64_t kBlock = 64;

// The sorted multi-indices of one degree in order of rank, one after another.
std::vector<int32_t> multi_indices(int64_t variables, int64_t degree) {
  std::vector<int32_t> all;
  std::vector<int32_t> index(degree, 0);
  for (int64_t count = count_monomials(variables, degree); count > 0; --count) {
    all.insert(all.end(), index.begin(), index.end());
    // The next in colexicographic order: the first digit that may grow without passing the next one.
    for (int64_t k = 0; k < degree; ++k) {
      if (k + 1 == degree || index[k] < index[k + 1]) {
        index[k] += 1;
        std::fill(index.begin(), index.begin() + k, 0);
        break;
      }
    }
  }
  return all;
}

std::vector<int32_t> rank_products(int64_t variables, int64_t j, int64_t l) {
  const std::vector<int32_t> left = multi_indices(variables, j);
  const std::vector<int32_t> right = multi_indices(variables, l);
  const int64_t degree = j + l;
  std::vector<int64_t> terms(variables * degree);
  for (const auto i : c10::irange(variables)) {
    for (const auto k : c10::irange(degree)) {
      terms[i * degree + k] = ops::binomial(i + k, k + 1);
    }
  }
  const int64_t rows = count_monomials(variables, j);
  const int64_t columns = count_monomials(variables, l);
  std::vector<int32_t> ranks;
  ranks.reserve(rows * columns);
  std::vector<int32_t> merged(degree);
  for (const auto r : c10::irange(rows)) {
    for (const auto c : c10::irange(columns)) {
      std::merge(
          left.begin() + r * j,
          left.begin() + (r + 1) * j,
          right.begin() + c * l,
          right.begin() + (c + 1) * l,
          merged.begin());
      int64_t rank = 0;
      for (const auto k : c10::irange(degree)) {
        rank += terms[merged[k] * degree + k];
      }
      ranks.push_back(static_cast<int32_t>(rank));
    }
  }
  return ranks;
}

template <typename T>
void multiply(const at::Tensor& a, const at::Tensor& b, const int32_t* ranks, const at::Tensor& result) {
  const int64_t numel = result.numel() / std::max<int64_t>(result.size(0), 1);
  const int64_t rows = a.size(0), columns = b.size(0);
  const T* left = a.const_data_ptr<T>();
  const T* right = b.const_data_ptr<T>();
  T* out = result.mutable_data_ptr<T>();
  at::parallel_for(0, (numel + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kBlock; first < std::min(end * kBlock, numel); first += kBlock) {
      const int64_t length = std::min(kBlock, numel - first);
      for (const auto r : c10::irange(rows)) {
        for (const auto c : c10::irange(columns)) {
          T* sum = out + ranks[r * columns + c] * numel + first;
          const T* x = left + r * numel + first;
          const T* y = right + c * numel + first;
          for (const auto e : c10::irange(length)) {
            sum[e] += x[e] * y[e];
          }
        }
      }
    }
  });
}

bool is_plain(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && !at::isTensorSubclassLike(tensor) &&
      (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble);
}

// The ranks of product_ranks as an index on the device of `like`. On any but the CPU it is kept for good, up to a total
// of kKeptIndex: each copy waits for the device, and cannot be captured in a CUDA graph.
at::Tensor rank_index(int64_t variables, int64_t j, int64_t l, const at::Tensor& like) {
  const Ranks ranks = product_ranks(variables, j, l);
  const auto numel = static_cast<int64_t>(ranks->size());
  const auto copy = [&] {
    return at::from_blob(const_cast<int32_t*>(ranks->data()), {numel}, at::kInt).to(like.device(), at::kLong);
  };
  if (like.device().is_cpu() || at::isTensorSubclassLike(like)) {
    return copy();
  }
  static auto* guard = new std::mutex;
  static auto* kept = new std::map<std::tuple<std::string, int64_t, int64_t, int64_t>, at::Tensor>;
  static int64_t total = 0;
  const std::lock_guard<std::mutex> lock(*guard);
  const std::tuple<std::string, int64_t, int64_t, int64_t> key{like.device().str(), variables, j, l};
  const auto entry = kept->find(key);
  if (entry != kept->end()) {
    return entry->second;
  }
  const c10::InferenceMode normal(false); // a graph may save it
  const at::Tensor index = copy();
  if (total + numel <= kKeptIndex) {
    total += numel;
    (*kept)[key] = index;
  }
  return index;
}

} // namespace

int64_t count_monomials(int64_t variables, int64_t degree) {
  return ops::binomial(variables + degree - 1, degree);
}

Ranks product_ranks(int64_t variables, int64_t j, int64_t l) {
  static auto* guard = new std::mutex;
  static auto* kept = new std::map<std::tuple<int64_t, int64_t, int64_t>, Ranks>;
  static size_t total = 0;
  const std::lock_guard<std::mutex> lock(*guard);
  const auto entry = kept->find({variables, j, l});
  if (entry != kept->end()) {
    return entry->second;
  }
  auto ranks = std::make_shared<const std::vector<int32_t>>(rank_products(variables, j, l));
  if (total + ranks->size() > kKeptRanks) {
    kept->clear();
    total = 0;
  }
  if (ranks->size() <= kKeptRanks) {
    total += ranks->size();
    (*kept)[{variables, j, l}] = ranks;
  }
  return ranks;
}

at::Tensor multi_factorials(int64_t variables, int64_t degree) {
  const std::vector<int32_t> indices = multi_indices(variables, degree);
  at::Tensor factorials = at::empty({count_monomials(variables, degree)}, at::kDouble);
  auto* out = factorials.mutable_data_ptr<double>();
  for (const auto r : c10::irange(factorials.numel())) {
    double product = 1;
    int64_t run = 0;
    for (const auto k : c10::irange(degree)) {
      const int32_t* index = indices.data() + r * degree;
      run = k > 0 && index[k] == index[k - 1] ? run + 1 : 1;
      product *= static_cast<double>(run);
    }
    out[r] = product;
  }
  return factorials;
}

at::Tensor multiply_polynomials(int64_t variables, int64_t j, const at::Tensor& a, int64_t l, const at::Tensor& b) {
  std::vector<int64_t> shape = at::infer_size(a.sizes().slice(1), b.sizes().slice(1));
  shape.insert(shape.begin(), 0);
  const auto rows_like = [&](int64_t rows) {
    shape[0] = rows;
    return shape;
  };
  if (!at::GradMode::is_enabled() && is_plain(a) && is_plain(b)) {
    const Ranks ranks = product_ranks(variables, j, l);
    at::Tensor result = at::zeros(rows_like(count_monomials(variables, j + l)), a.options());
    const at::Tensor left = a.expand(rows_like(a.size(0))).contiguous();
    const at::Tensor right = b.expand(rows_like(b.size(0))).contiguous();
    if (a.scalar_type() == at::kFloat) {
      multiply<float>(left, right, ranks->data(), result);
    } else {
      multiply<double>(left, right, ranks->data(), result);
    }
    return result;
  }
  return fold_pairs(variables, j, l, (a.unsqueeze(1) * b.unsqueeze(0)).flatten(0, 1));
}

at::Tensor correlate_polynomials(
    int64_t variables,
    int64_t j,
    int64_t l,
    const at::Tensor& cotangent,
    const at::Tensor& b) {
  c10::DimVector shape(cotangent.sizes());
  shape[0] = count_monomials(variables, l);
  shape.insert(shape.begin(), count_monomials(variables, j));
  return (cotangent.index_select(0, rank_index(variables, j, l, cotangent)).view(shape) * b).sum(1);
}

at::Tensor fold_pairs(int64_t variables, int64_t j, int64_t l, const at::Tensor& pairs) {
  c10::DimVector shape(pairs.sizes());
  shape[0] = count_monomials(variables, j + l);
  c10::DimVector ones(pairs.dim(), 1);
  ones[0] = pairs.size(0);
  const at::Tensor index = rank_index(variables, j, l, pairs).view(ones).expand_as(pairs);
  return at::scatter_add(at::zeros(shape, pairs.options()), 0, index, pairs);
}

} // namespace highgrad::taylor
