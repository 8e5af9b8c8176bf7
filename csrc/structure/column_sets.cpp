#include "structure/column_sets.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

namespace highgrad::structure {
namespace {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;
constexpr int64_t kFewestUnions = int64_t{1} << 8;
constexpr int64_t kMostUnions = int64_t{1} << 18;
constexpr int64_t kBits = 64;
constexpr int64_t kMostBits = int64_t{1} << 11;
constexpr int64_t kWordsPerStep = 8;

// What a set of bits takes to be looked up, in steps.
constexpr int64_t kLookUpSteps = 16;

uint64_t mix(uint64_t state, uint64_t value) {
  state = (state ^ value) * kGolden;
  return state ^ (state >> 29);
}

// A set's hash is the sum of its columns': no one waits for the one before.
uint64_t hash_of(int32_t column) {
  return mix(kGolden, mix(0, static_cast<uint64_t>(column) + 1));
}

// Likewise of words of bits. All bits of a word change the first bytes of the product, few the last.
uint64_t hash_of(int64_t place, uint64_t word) {
  return __builtin_bswap64((word ^ (kGolden * (static_cast<uint64_t>(place) + 1))) * kGolden);
}

int64_t next_power_of_two(int64_t value) {
  int64_t power = 1;
  while (power < value) {
    power *= 2;
  }
  return power;
}

} // namespace

ColumnSets::ColumnSets(int64_t columns, int64_t& work_left)
    : work_left_(work_left),
      words_per_set_(columns <= kMostBits ? (columns + kBits - 1) / kBits : 0),
      table_(next_power_of_two(4 * (columns + 1)), -1),
      unions_(std::clamp(next_power_of_two(2 * columns), kFewestUnions, kMostUnions)),
      seen_(are_bits() ? 0 : columns, 0),
      bits_((columns + kBits - 1) / kBits, 0) {
  hashes_.reserve(columns + 1);
  const auto add = [&](uint64_t hash) {
    const uint64_t mask = table_.size() - 1;
    uint64_t place = hash & mask;
    while (table_[place] >= 0) {
      place = (place + 1) & mask;
    }
    table_[place] = static_cast<int32_t>(hashes_.size());
    hashes_.push_back(hash);
  };
  uint64_t hash_of_none = 0;
  for (int64_t place = 0; place < words_per_set_; ++place) {
    hash_of_none += hash_of(place, 0);
  }
  add(hash_of_none);
  if (are_bits()) {
    words_.resize((columns + 1) * words_per_set_, 0);
  } else {
    columns_.resize(columns);
    std::iota(columns_.begin(), columns_.end(), 0);
    first_.resize(columns + 2);
    std::iota(first_.begin() + 1, first_.end(), 0);
  }
  for (int64_t column = 0; column < columns; ++column) {
    const int64_t place = column / kBits;
    const uint64_t word = uint64_t{1} << (column % kBits);
    if (are_bits()) {
      words_[(column + 1) * words_per_set_ + place] = word;
    }
    add(are_bits() ? hash_of_none - hash_of(place, 0) + hash_of(place, word) : hash_of(static_cast<int32_t>(column)));
  }
}

bool ColumnSets::append_columns(int32_t set, std::vector<int64_t>& to) {
  if (!are_bits()) {
    const bool may_append = spend(first_[set + 1] - first_[set]);
    if (may_append) {
      to.insert(to.end(), columns_.begin() + first_[set], columns_.begin() + first_[set + 1]);
    }
    return may_append;
  }
  const auto before = static_cast<int64_t>(to.size());
  const uint64_t* words = words_.data() + set * words_per_set_;
  for (int64_t w = 0; w < words_per_set_ && !is_exhausted(); ++w) {
    for (uint64_t word = words[w]; word != 0; word &= word - 1) {
      to.push_back(w * kBits + __builtin_ctzll(word));
    }
  }
  return spend(static_cast<int64_t>(to.size()) - before);
}

void ColumnSets::grow_table() {
  table_.assign(2 * table_.size(), -1);
  const uint64_t mask = table_.size() - 1;
  for (size_t set = 0; set < hashes_.size(); ++set) {
    uint64_t place = hashes_[set] & mask;
    while (table_[place] >= 0) {
      place = (place + 1) & mask;
    }
    table_[place] = static_cast<int32_t>(set);
  }
}

// Of an old set that is_equal(set), the new one's columns are dropped.
template <typename IsEqual, typename Drop>
int32_t ColumnSets::find_or_add(uint64_t hash, IsEqual&& is_equal, Drop&& drop) {
  const uint64_t mask = table_.size() - 1;
  uint64_t place = hash & mask;
  for (; table_[place] >= 0; place = (place + 1) & mask) {
    const int32_t set = table_[place];
    if (hashes_[set] == hash && is_equal(set)) {
      drop();
      return set;
    }
  }
  if (hashes_.size() >= static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    work_left_ = -1;
    drop();
    return kEmpty;
  }
  const auto set = static_cast<int32_t>(hashes_.size());
  table_[place] = set;
  hashes_.push_back(hash);
  if (2 * hashes_.size() > table_.size()) {
    grow_table();
  }
  return set;
}

int32_t ColumnSets::intern(int64_t begin) {
  spend(static_cast<int64_t>(columns_.size()) - begin);
  uint64_t hash = 0;
  for (auto k = static_cast<size_t>(begin); k < columns_.size(); ++k) {
    hash += hash_of(columns_[k]);
  }
  const auto is_equal = [&](int32_t set) {
    const auto known = columns_.begin();
    return std::equal(known + first_[set], known + first_[set + 1], columns_.begin() + begin, columns_.end());
  };
  const int32_t set = find_or_add(hash, is_equal, [&] { columns_.resize(begin); });
  if (static_cast<size_t>(set) + 1 == first_.size()) {
    first_.push_back(static_cast<int64_t>(columns_.size()));
  }
  return set;
}

int32_t ColumnSets::intern_bits() {
  spend(kLookUpSteps + words_per_set_ / 2);
  const auto begin = static_cast<int64_t>(words_.size()) - words_per_set_;
  const uint64_t* own = words_.data() + begin;
  uint64_t hash = 0;
  for (int64_t w = 0; w < words_per_set_; ++w) {
    hash += hash_of(w, own[w]);
  }
  const auto is_equal = [&](int32_t set) {
    return std::equal(own, own + words_per_set_, words_.data() + set * words_per_set_);
  };
  return find_or_add(hash, is_equal, [&] { words_.resize(begin); });
}

int32_t ColumnSets::unite_different(int32_t a, int32_t b) {
  if (is_exhausted()) {
    return kEmpty; // the numbers may be of no sets
  }
  if (a > b) {
    std::swap(a, b);
  }
  const uint64_t hash = mix(static_cast<uint64_t>(a), static_cast<uint64_t>(b));
  Known& known = unions_[hash & (unions_.size() - 1)];
  if (known.a == a && known.b == b) {
    return known.both;
  }
  if (are_bits()) {
    known = {a, b, unite_bits({a, b})};
    return known.both;
  }
  const auto size = first_[a + 1] - first_[a] + first_[b + 1] - first_[b];
  if (!spend(size)) {
    return kEmpty;
  }
  const auto begin = static_cast<int64_t>(columns_.size());
  columns_.resize(begin + size);
  const auto at = [&](int64_t place) { return columns_.begin() + place; };
  columns_.erase(
      std::set_union(at(first_[a]), at(first_[a + 1]), at(first_[b]), at(first_[b + 1]), at(begin)), columns_.end());
  known = {a, b, intern(begin)};
  return known.both;
}

int32_t ColumnSets::unite_bits(c10::ArrayRef<int32_t> sets) {
  const auto count = static_cast<int64_t>(sets.size());
  if (!spend(count * (1 + words_per_set_ / kWordsPerStep))) {
    return kEmpty;
  }
  const auto begin = static_cast<int64_t>(words_.size());
  words_.resize(begin + words_per_set_, 0);
  uint64_t* to = words_.data() + begin;
  for (const int32_t set : sets) {
    const uint64_t* from = words_.data() + set * words_per_set_;
    for (int64_t w = 0; w < words_per_set_; ++w) {
      to[w] |= from[w];
    }
  }
  return intern_bits();
}

int32_t ColumnSets::next_union() {
  if (++num_unions_ == std::numeric_limits<int32_t>::max()) {
    work_left_ = -1;
    num_unions_ = 0;
  }
  return num_unions_;
}

void ColumnSets::sort_columns(int64_t begin, int32_t first, int32_t last) {
  const auto size = static_cast<int64_t>(columns_.size()) - begin;
  const int64_t first_word = first / kBits;
  const int64_t words = last / kBits - first_word + 1;
  int64_t comparisons = size;
  for (int64_t rest = size; rest > 1; rest /= 2) {
    comparisons += size;
  }
  if (comparisons < words) {
    spend(comparisons);
    std::sort(columns_.begin() + begin, columns_.end());
    return;
  }
  spend(size + words);
  for (auto k = static_cast<size_t>(begin); k < columns_.size(); ++k) {
    bits_[columns_[k] / kBits] |= uint64_t{1} << (columns_[k] % kBits);
  }
  auto to = columns_.begin() + begin;
  for (int64_t w = first_word; w < first_word + words; ++w) {
    for (uint64_t word = bits_[w]; word != 0; word &= word - 1) {
      *to++ = static_cast<int32_t>(w * kBits + __builtin_ctzll(word));
    }
    bits_[w] = 0;
  }
}

int32_t ColumnSets::unite(std::vector<int32_t>& sets) {
  if (!spend(static_cast<int64_t>(sets.size()))) {
    return kEmpty;
  }
  const int32_t number = next_union();
  united_.resize(hashes_.size(), 0);
  size_t count = 0;
  for (const int32_t set : sets) {
    if (set != kEmpty && united_[set] != number) {
      united_[set] = number;
      sets[count++] = set;
    }
  }
  sets.resize(count);
  if (count <= 2) {
    return count == 0 ? kEmpty : unite(sets.front(), sets.back());
  }
  if (are_bits()) {
    return unite_bits(sets);
  }
  const auto begin = static_cast<int64_t>(columns_.size());
  int32_t first = std::numeric_limits<int32_t>::max();
  int32_t last = 0;
  for (const int32_t set : sets) {
    if (!spend(first_[set + 1] - first_[set])) {
      columns_.resize(begin);
      return kEmpty;
    }
    first = std::min(first, columns_[first_[set]]);
    last = std::max(last, columns_[first_[set + 1] - 1]);
    for (int64_t k = first_[set]; k < first_[set + 1]; ++k) {
      const int32_t column = columns_[k];
      if (seen_[column] != number) {
        seen_[column] = number;
        columns_.push_back(column);
      }
    }
  }
  sort_columns(begin, first, last);
  return intern(begin);
}

} // namespace highgrad::structure
