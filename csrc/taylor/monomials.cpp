#include "taylor/monomials.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <tuple>

#include "ops/symmetric_index.h"

namespace highgrad::taylor {
namespace {

using Index = Monomials::Index;
using Products = std::shared_ptr<const MonomialProducts>;

// Terms that are kept for the next call: 64 MiB.
constexpr size_t kKeptTerms = size_t{1} << 23;
// Sets of some monomials that are kept.
constexpr size_t kKeptSets = 256;

// The sorted multi-indices of one degree in order of rank.
std::vector<Index> multi_indices(int64_t variables, int64_t degree) {
  std::vector<Index> all;
  Index index(degree, 0);
  for (int64_t count = ops::binomial(variables + degree - 1, degree); count > 0; --count) {
    all.push_back(index);
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

// rank: of a product, or negative for one that is left out.
template <typename Rank>
Products multiply(const std::vector<Index>& left, const std::vector<Index>& right, const Rank& rank) {
  auto products = std::make_shared<MonomialProducts>();
  products->first.push_back(0);
  Index merged;
  for (const Index& a : left) {
    for (const auto c : c10::irange(right.size())) {
      merged.clear();
      std::merge(a.begin(), a.end(), right[c].begin(), right[c].end(), std::back_inserter(merged));
      const int64_t product = rank(merged);
      if (product >= 0) {
        products->terms.push_back({static_cast<int32_t>(c), static_cast<int32_t>(product)});
      }
      products->are_all = products->are_all && product >= 0;
    }
    products->first.push_back(static_cast<int64_t>(products->terms.size()));
  }
  return products;
}

} // namespace

std::shared_ptr<const Monomials> Monomials::all(int64_t variables) {
  static auto* guard = new std::mutex;
  static auto* kept = new std::map<int64_t, std::shared_ptr<const Monomials>>;
  const std::lock_guard<std::mutex> lock(*guard);
  auto& entry = (*kept)[variables];
  if (entry == nullptr) {
    auto monomials = std::make_shared<Monomials>();
    monomials->variables_ = variables;
    entry = std::move(monomials);
  }
  return entry;
}

std::shared_ptr<const Monomials> Monomials::some(const std::vector<std::vector<Index>>& by_degree) {
  static auto* guard = new std::mutex;
  static auto* kept = new std::map<std::vector<std::vector<Index>>, std::shared_ptr<const Monomials>>;
  const std::lock_guard<std::mutex> lock(*guard);
  const auto entry = kept->find(by_degree);
  if (entry != kept->end()) {
    return entry->second;
  }
  auto monomials = std::make_shared<Monomials>();
  monomials->some_ = by_degree;
  const auto highest = static_cast<int64_t>(by_degree.size());
  for (const auto left : c10::irange<int64_t>(1, highest)) {
    for (const auto right : c10::irange<int64_t>(1, highest - left + 1)) {
      const std::vector<Index>& there = by_degree[left + right - 1];
      monomials->products_[{left, right}] =
          multiply(by_degree[left - 1], by_degree[right - 1], [&](const Index& index) -> int64_t {
            const auto place = std::find(there.begin(), there.end(), index);
            return place == there.end() ? -1 : place - there.begin();
          });
    }
  }
  if (kept->size() >= kKeptSets) {
    kept->clear();
  }
  return (*kept)[by_degree] = monomials;
}

int64_t Monomials::count(int64_t degree) const {
  return some_.empty() ? ops::binomial(variables_ + degree - 1, degree)
                       : static_cast<int64_t>(some_[degree - 1].size());
}

int64_t Monomials::total(int64_t degree) const {
  if (some_.empty()) {
    return ops::binomial(variables_ + degree, degree) - 1;
  }
  int64_t total = 0;
  for (const auto k : c10::irange<int64_t>(1, degree + 1)) {
    total += count(k);
  }
  return total;
}

std::vector<Index> Monomials::of_degree(int64_t degree) const {
  return some_.empty() ? multi_indices(variables_, degree) : some_[degree - 1];
}

Products Monomials::products(int64_t left, int64_t right) const {
  if (!some_.empty()) {
    return products_.at({left, right});
  }
  static auto* guard = new std::mutex;
  static auto* kept = new std::map<std::tuple<int64_t, int64_t, int64_t>, Products>;
  static size_t total = 0;
  const std::lock_guard<std::mutex> lock(*guard);
  const std::tuple<int64_t, int64_t, int64_t> key{variables_, left, right};
  const auto entry = kept->find(key);
  if (entry != kept->end()) {
    return entry->second;
  }
  const int64_t degree = left + right;
  const Products products = multiply(of_degree(left), of_degree(right), [&](const Index& index) {
    int64_t rank = 0;
    for (const auto k : c10::irange(degree)) {
      rank += ops::binomial(index[k] + k, k + 1);
    }
    return rank;
  });
  if (total + products->terms.size() > kKeptTerms) {
    kept->clear();
    total = 0;
  }
  if (products->terms.size() <= kKeptTerms) {
    total += products->terms.size();
    (*kept)[key] = products;
  }
  return products;
}

at::Tensor Monomials::factorials(int64_t degree) const {
  const std::vector<Index> indices = of_degree(degree);
  at::Tensor factorials = at::empty({static_cast<int64_t>(indices.size())}, at::kDouble);
  auto* out = factorials.mutable_data_ptr<double>();
  for (const auto r : c10::irange(indices.size())) {
    double product = 1;
    int64_t run = 0;
    for (const auto k : c10::irange(degree)) {
      run = k > 0 && indices[r][k] == indices[r][k - 1] ? run + 1 : 1;
      product *= static_cast<double>(run);
    }
    out[r] = product;
  }
  return factorials;
}

} // namespace highgrad::taylor
