#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace highgrad::taylor {

// The products of every monomial of one degree, left, with those of another, right, as far as they are monomials that
// there are.
struct MonomialProducts {
  struct Term {
    int32_t right;
    int32_t product;
  };
  std::vector<int64_t> first; // term of every left one, and the number of terms
  std::vector<Term> terms;
  bool are_all = true; // none is left out
};

// The monomials that a polynomial has coefficients for, but for the constant: all of every degree, as
// ops/symmetric_index.h ranks them, or some, with every divisor of theirs. Products that are none of them are left out:
// no coefficient of theirs depends on what is left out, so that all identities hold.
class Monomials {
 public:
  // A monomial as its variables, ascending, each as often as it occurs.
  using Index = std::vector<int32_t>;

  static std::shared_ptr<const Monomials> all(int64_t variables);
  // Of degree 1, 2, ..., each in this order.
  static std::shared_ptr<const Monomials> some(const std::vector<std::vector<Index>>& by_degree);

  int64_t count(int64_t degree) const;
  // Of degrees 1, ..., degree.
  int64_t total(int64_t degree) const;
  // Kept for later calls, and no tensors, which a mode of the first call (inference, fake tensors) would make its own.
  std::shared_ptr<const MonomialProducts> products(int64_t left, int64_t right) const;
  // i! of every multi-index i of this degree: what takes coefficients to derivatives. Float64 [count], on the CPU.
  at::Tensor factorials(int64_t degree) const;

 private:
  std::vector<Index> of_degree(int64_t degree) const;

  int64_t variables_ = 0;
  std::vector<std::vector<Index>> some_; // by degree, or empty for all
  std::map<std::pair<int64_t, int64_t>, std::shared_ptr<const MonomialProducts>> products_; // of some
};

} // namespace highgrad::taylor
