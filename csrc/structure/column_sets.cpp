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

uint64_t mix(uint64_t state, uint64_t value) {
  state = (state ^ value) * kGolden;
  return state ^ (state >> 29);
}

// A set's hash is the sum of its columns': no one waits for the one before.
uint64_t hash_of(int32_t column) {
  return mix(kGolden, mix(0, static_cast<uint64_t>(column) + 1));
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
      columns_(columns),
      first_(columns + 2),
      table_(next_power_of_two(4 * (columns + 1)), -1),
      unions_(std::clamp(next_power_of_two(2 * columns), kFewestUnions, kMostUnions)),
      seen_(columns, 0),
      bits_((columns + kBits - 1) / kBits, 0) {
  std::iota(columns_.begin(), columns_.end(), 0);
  std::iota(first_.begin() + 1, first_.end(), 0);
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
  add(0);
  for (int64_t column = 0; column < columns; ++column) {
    add(hash_of(static_cast<int32_t>(column)));
  }
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

int32_t ColumnSets::intern(int64_t begin) {
  spend(static_cast<int64_t>(columns_.size()) - begin);
  uint64_t hash = 0;
  for (auto k = static_cast<size_t>(begin); k < columns_.size(); ++k) {
    hash += hash_of(columns_[k]);
  }
  const uint64_t mask = table_.size() - 1;
  uint64_t place = hash & mask;
  for (; table_[place] >= 0; place = (place + 1) & mask) {
    const int32_t set = table_[place];
    if (hashes_[set] == hash) {
      const auto known = columns_of(set);
      if (std::equal(known.begin(), known.end(), columns_.begin() + begin, columns_.end())) {
        columns_.resize(begin);
        return set;
      }
    }
  }
  if (hashes_.size() >= static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    work_left_ = -1;
    columns_.resize(begin);
    return kEmpty;
  }
  const auto set = static_cast<int32_t>(hashes_.size());
  table_[place] = set;
  hashes_.push_back(hash);
  first_.push_back(static_cast<int64_t>(columns_.size()));
  if (2 * hashes_.size() > table_.size()) {
    grow_table();
  }
  return set;
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
