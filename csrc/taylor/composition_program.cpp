#include "taylor/composition_program.h"

#include <functional>
#include <map>
#include <mutex>
#include <tuple>

#include "taylor/monomials.h"

namespace highgrad::taylor {
namespace {

// Steps that are kept for the next call: 64 MiB.
constexpr size_t kKeptSteps = size_t{1} << 22;

class Builder {
 public:
  Builder(const Frame& frame, int64_t terms)
      : monomials_(*frame.monomials), order_(frame.order), terms_(std::min(terms, frame.order)) {}

  CompositionProgram forward() {
    program_.x = take(monomials_.total(terms_));
    program_.series = take(order_);
    program_.y = take(monomials_.total(order_));
    compose([&](int64_t m) { return program_.series + static_cast<int32_t>(m) - 1; });
    return std::move(program_);
  }

  CompositionProgram reverse() {
    program_.x = take(monomials_.total(terms_));
    program_.series = take(order_ + 1);
    program_.y = take(monomials_.total(order_));
    program_.by_y = take(monomials_.total(order_));
    program_.by_x = take(monomials_.total(terms_));
    program_.by_x0 = take(1);
    compose([&](int64_t m) { return program_.series + static_cast<int32_t>(m); });
    const int64_t all = monomials_.total(order_);
    for (const auto r : c10::irange(static_cast<int32_t>(all))) {
      multiply(program_.by_x0, program_.by_y + r, program_.y + r);
    }
    for (const auto j : c10::irange<int64_t>(1, terms_ + 1)) {
      for (const auto k : c10::irange(j, order_ + 1)) {
        correlate(j, k);
      }
    }
    return std::move(program_);
  }

 private:
  int32_t take(int64_t count) {
    const int32_t first = program_.rows;
    program_.rows += static_cast<int32_t>(count);
    return first;
  }

  // Of the rows of order k, after `first` for order 1.
  int32_t of_order(int32_t first, int64_t k) const {
    return first + static_cast<int32_t>(monomials_.total(k - 1));
  }

  void multiply(int32_t sum, int32_t left, int32_t right) {
    is_begun_.resize(program_.rows, false);
    program_.steps.push_back({sum, left, right, !is_begun_[sum]});
    is_begun_[sum] = true;
  }

  // By Horner's rule: y_k is made of lower orders of what stands there, so the highest comes first. series: the row of
  // c_m.
  void compose(const std::function<int32_t(int64_t)>& series) {
    for (int64_t m = order_ - 1; m >= 0; --m) {
      is_begun_.assign(program_.rows, false);
      for (int64_t k = order_ - m; k > 0; --k) {
        const int32_t sum = of_order(program_.y, k);
        for (const auto j : c10::irange<int64_t>(1, std::min(k, terms_) + 1)) {
          const int32_t left = of_order(program_.x, j);
          if (j == k) {
            for (const auto r : c10::irange(static_cast<int32_t>(monomials_.count(k)))) {
              multiply(sum + r, left + r, series(m + 1));
            }
          } else {
            const int32_t right = of_order(program_.y, k - j);
            for_products(
                j, k - j, [&](int32_t a, int32_t b, int32_t product) { multiply(sum + product, left + a, right + b); });
          }
        }
      }
    }
  }

  // From the cotangent of y_k to that of x_j.
  void correlate(int64_t j, int64_t k) {
    const int32_t sum = of_order(program_.by_x, j), cotangent = of_order(program_.by_y, k);
    if (j == k) {
      for (const auto r : c10::irange(static_cast<int32_t>(monomials_.count(k)))) {
        multiply(sum + r, cotangent + r, program_.series);
      }
      return;
    }
    const int32_t factor = of_order(program_.y, k - j);
    for_products(
        j, k - j, [&](int32_t a, int32_t b, int32_t product) { multiply(sum + a, cotangent + product, factor + b); });
  }

  template <typename Run>
  void for_products(int64_t j, int64_t l, const Run& run) const {
    const auto products = monomials_.products(j, l);
    for (const auto r : c10::irange(products->first.size() - 1)) {
      for (const auto t : c10::irange(products->first[r], products->first[r + 1])) {
        run(static_cast<int32_t>(r), products->terms[t].right, products->terms[t].product);
      }
    }
  }

  const Monomials& monomials_;
  int64_t order_;
  int64_t terms_;
  CompositionProgram program_;
  std::vector<bool> is_begun_;
};

std::shared_ptr<const CompositionProgram> kept_program(const Frame& frame, int64_t terms, bool is_reverse) {
  using Key = std::tuple<const Monomials*, int64_t, int64_t, bool>;
  // With what it is of, so that no other is ever found where that was.
  using Kept = std::pair<std::shared_ptr<const Monomials>, std::shared_ptr<const CompositionProgram>>;
  static auto* guard = new std::mutex;
  static auto* kept = new std::map<Key, Kept>;
  static size_t total = 0;
  const std::lock_guard<std::mutex> lock(*guard);
  const Key key{frame.monomials.get(), frame.order, terms, is_reverse};
  const auto entry = kept->find(key);
  if (entry != kept->end()) {
    return entry->second.second;
  }
  Builder builder(frame, terms);
  auto program = std::make_shared<const CompositionProgram>(is_reverse ? builder.reverse() : builder.forward());
  if (total + program->steps.size() > kKeptSteps) {
    kept->clear();
    total = 0;
  }
  if (program->steps.size() <= kKeptSteps) {
    total += program->steps.size();
    (*kept)[key] = {frame.monomials, program};
  }
  return program;
}

} // namespace

std::shared_ptr<const CompositionProgram> forward_program(const Frame& frame, int64_t terms) {
  return kept_program(frame, terms, false);
}

std::shared_ptr<const CompositionProgram> reverse_program(const Frame& frame, int64_t terms) {
  return kept_program(frame, terms, true);
}

} // namespace highgrad::taylor
