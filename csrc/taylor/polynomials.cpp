#include "taylor/polynomials.h"

#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/scatter_add.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace highgrad::taylor {
namespace {

// Indices that are kept on a device that is not the CPU: 8 MiB.
constexpr int64_t kKeptIndex = int64_t{1} << 20;
// Elements of all rows that are multiplied together, so that they stay in the nearest caches.
constexpr int64_t kBlock = 64;

template <typename T>
void multiply(const at::Tensor& a, const at::Tensor& b, const MonomialProducts& products, const at::Tensor& result) {
  const int64_t numel = result.numel() / std::max<int64_t>(result.size(0), 1);
  const T* left = a.const_data_ptr<T>();
  const T* right = b.const_data_ptr<T>();
  T* out = result.mutable_data_ptr<T>();
  at::parallel_for(0, (numel + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kBlock; first < std::min(end * kBlock, numel); first += kBlock) {
      const int64_t length = std::min(kBlock, numel - first);
      for (const auto r : c10::irange(a.size(0))) {
        for (const auto t : c10::irange(products.first[r], products.first[r + 1])) {
          const MonomialProducts::Term& term = products.terms[t];
          T* sum = out + term.product * numel + first;
          const T* x = left + r * numel + first;
          const T* y = right + term.right * numel + first;
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

using Products = std::shared_ptr<const MonomialProducts>;

// The left factor, the right one and the product of all terms, [3, terms], on the device of `like`. On any but the CPU
// it is kept for good, up to a total of kKeptIndex: each copy waits for the device, and cannot be captured in a CUDA
// graph.
at::Tensor index_of(const Products& products, const at::Tensor& like) {
  const auto numel = static_cast<int64_t>(products->terms.size());
  const auto copy = [&] {
    std::vector<int64_t> index(3 * numel);
    for (const auto r : c10::irange(products->first.size() - 1)) {
      for (const auto t : c10::irange(products->first[r], products->first[r + 1])) {
        index[t] = static_cast<int64_t>(r);
        index[numel + t] = products->terms[t].right;
        index[2 * numel + t] = products->terms[t].product;
      }
    }
    return at::from_blob(index.data(), {3, numel}, at::kLong).to(like.device(), at::kLong, false, /*copy=*/true);
  };
  if (like.device().is_cpu() || at::isTensorSubclassLike(like)) {
    return copy();
  }
  static auto* guard = new std::mutex;
  // With what it is of, so that no other is ever found where that was.
  static auto* kept = new std::map<std::pair<std::string, const MonomialProducts*>, std::pair<Products, at::Tensor>>;
  static int64_t total = 0;
  const std::lock_guard<std::mutex> lock(*guard);
  const std::pair<std::string, const MonomialProducts*> key{like.device().str(), products.get()};
  const auto entry = kept->find(key);
  if (entry != kept->end()) {
    return entry->second.second;
  }
  const c10::InferenceMode normal(false); // a graph may save it
  const at::Tensor index = copy();
  if (total + 3 * numel <= kKeptIndex) {
    total += 3 * numel;
    (*kept)[key] = {products, index};
  }
  return index;
}

// The sums of rows, one for each term, that belong to one product each.
at::Tensor fold(const at::Tensor& rows, const at::Tensor& products, int64_t count) {
  c10::DimVector shape(rows.sizes());
  shape[0] = count;
  c10::DimVector ones(rows.dim(), 1);
  ones[0] = rows.size(0);
  return at::scatter_add(at::zeros(shape, rows.options()), 0, products.view(ones).expand_as(rows), rows);
}

} // namespace

at::Tensor multiply_polynomials(
    const Monomials& monomials,
    int64_t j,
    const at::Tensor& a,
    int64_t l,
    const at::Tensor& b) {
  std::vector<int64_t> shape = at::infer_size(a.sizes().slice(1), b.sizes().slice(1));
  shape.insert(shape.begin(), 0);
  const auto rows_like = [&](int64_t rows) {
    shape[0] = rows;
    return shape;
  };
  const Products products = monomials.products(j, l);
  if (!at::GradMode::is_enabled() && is_plain(a) && is_plain(b)) {
    at::Tensor result = at::zeros(rows_like(monomials.count(j + l)), a.options());
    const at::Tensor left = a.expand(rows_like(a.size(0))).contiguous();
    const at::Tensor right = b.expand(rows_like(b.size(0))).contiguous();
    if (a.scalar_type() == at::kFloat) {
      multiply<float>(left, right, *products, result);
    } else {
      multiply<double>(left, right, *products, result);
    }
    return result;
  }
  if (products->are_all) {
    return fold_pairs(monomials, j, l, (a.unsqueeze(1) * b.unsqueeze(0)).flatten(0, 1));
  }
  const at::Tensor index = index_of(products, a);
  return fold(a.index_select(0, index[0]) * b.index_select(0, index[1]), index[2], monomials.count(j + l));
}

at::Tensor correlate_polynomials(
    const Monomials& monomials,
    int64_t j,
    int64_t l,
    const at::Tensor& cotangent,
    const at::Tensor& b) {
  const Products products = monomials.products(j, l);
  const at::Tensor index = index_of(products, cotangent);
  const at::Tensor of_terms = cotangent.index_select(0, index[2]);
  if (!products->are_all) {
    return fold(of_terms * b.index_select(0, index[1]), index[0], monomials.count(j));
  }
  c10::DimVector shape(cotangent.sizes());
  shape[0] = monomials.count(l);
  shape.insert(shape.begin(), monomials.count(j));
  return (of_terms.view(shape) * b).sum(1);
}

at::Tensor fold_pairs(const Monomials& monomials, int64_t j, int64_t l, const at::Tensor& pairs) {
  const Products products = monomials.products(j, l);
  const at::Tensor index = index_of(products, pairs);
  const at::Tensor rows =
      products->are_all ? pairs : pairs.index_select(0, at::add(index[1], index[0], monomials.count(l)));
  return fold(rows, index[2], monomials.count(j + l));
}

} // namespace highgrad::taylor
