#include "structure/nan_probes.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "structure/coloring.h"

namespace highgrad::structure {
namespace {

// A first sweep that hits more of all columns than this, block for block, shows a full Jacobian.
constexpr double kMaxDensity = 0.5;

// Wide blocks that hit more than this are of a full matrix, or of one whose rows are in no order.
constexpr double kMaxWideDensity = 0.95;

// Fewer first blocks do not tell full columns from wide bands.
constexpr int64_t kFewestForFull = 8;

// Steps of the colouring of blocks, for each entry.
constexpr int64_t kColoringSteps = 64;

// Even blocks: block b holds positions [start[b], start[b + 1]).
std::vector<int64_t> even_blocks(int64_t rows, int64_t blocks) {
  std::vector<int64_t> start;
  for (int64_t b = 0; b <= blocks; ++b) {
    start.push_back(rows * b / blocks);
  }
  return start;
}

class Search {
 public:
  Search(
      int64_t rows,
      int64_t columns,
      const std::vector<int64_t>& row_at,
      const ProbeBudget& budget,
      const Probe& probe)
      : rows_(rows),
        columns_(columns),
        row_at_(row_at),
        budget_(budget),
        probe_(probe),
        is_full_(columns, false),
        columns_of_samples_(budget.sampled) {}

  std::optional<ProbedPattern> run() {
    if (!may_be_sparse() || !probe_first_blocks()) {
      return std::nullopt;
    }
    while (num_blocks() < rows_) {
      const std::optional<Coloring> coloring = color_blocks();
      if (!coloring.has_value() || coloring->num_colors > budget_.max_colors || !is_promising(*coloring)) {
        return std::nullopt;
      }
      if (!is_worth_refining(*coloring)) {
        if (is_exact() || coloring->num_colors * longest_block() > budget_.max_colors) {
          return std::nullopt;
        }
        result_.coloring = color_rows_of(*coloring);
        break;
      }
      if (!refine(*coloring)) {
        return std::nullopt;
      }
    }
    result_.pattern = in_order_of_rows();
    return std::move(result_);
  }

 private:
  int64_t num_blocks() const {
    return static_cast<int64_t>(start_.size()) - 1;
  }

  // Whether single rows are wanted or nothing.
  bool is_exact() const {
    return budget_.sweep_cost < 0;
  }

  // Runs the probes; group_of(position) is filled in by the caller.
  std::optional<HitBits> run_probes(const std::vector<int64_t>& group_of_position, int64_t num_groups) {
    result_.probes += num_groups;
    result_.sweeps += 1;
    HitBits hits(num_groups, columns_);
    bool succeeded = false;
    if (row_at_.empty()) {
      succeeded = probe_(group_of_position, hits);
    } else {
      std::vector<int64_t> group_of_row(rows_);
      for (int64_t position = 0; position < rows_; ++position) {
        group_of_row[row_at_[position]] = group_of_position[position];
      }
      succeeded = probe_(group_of_row, hits);
    }
    return succeeded ? std::optional<HitBits>(std::move(hits)) : std::nullopt;
  }

  int64_t longest_block() const {
    int64_t longest = 0;
    for (int64_t b = 0; b < num_blocks(); ++b) {
      longest = std::max(longest, start_[b + 1] - start_[b]);
    }
    return longest;
  }

  // How many rows are yet to be probed by themselves, at most one a block.
  int64_t samples_of(int64_t blocks) const {
    return columns_of_samples_.empty() ? std::min(budget_.samples, blocks) : 0;
  }

  // Even blocks, and with them so many single rows.
  std::optional<HitBits> probe_blocks(int64_t blocks, int64_t samples) {
    start_ = even_blocks(rows_, blocks);
    std::vector<int64_t> group(rows_);
    for (int64_t b = 0; b < blocks; ++b) {
      std::fill(group.begin() + start_[b], group.begin() + start_[b + 1], b);
    }
    // A sample is probed by itself and counts for its block, of which it is in the middle. No two are in one block.
    std::vector<int64_t> sample_of(blocks, -1);
    for (int64_t s = 0; s < samples; ++s) {
      const int64_t block = blocks * (2 * s + 1) / (2 * samples);
      sample_of[block] = blocks + s;
      group[(start_[block] + start_[block + 1]) / 2] = blocks + s;
    }
    auto hits = run_probes(group, blocks + samples);
    for (int64_t b = 0; hits.has_value() && b < blocks; ++b) {
      if (sample_of[b] >= 0) {
        hits->merge(b, sample_of[b]);
      }
    }
    for (int64_t s = blocks; hits.has_value() && s < blocks + samples; ++s) {
      std::vector<int64_t>& columns = columns_of_samples_.emplace_back();
      hits->for_each(s, [&](int64_t column) { columns.push_back(column); });
    }
    return hits;
  }

  bool may_be_sparse() {
    const int64_t blocks = std::min(budget_.wide_blocks, rows_);
    if (blocks == 0) {
      return true;
    }
    const auto hits = probe_blocks(blocks, samples_of(blocks));
    const double all = static_cast<double>(blocks) * static_cast<double>(columns_);
    return hits.has_value() &&
        (are_samples_sparse() || static_cast<double>(hits->count(blocks)) < kMaxWideDensity * all);
  }

  bool probe_first_blocks() {
    const int64_t blocks = std::min(budget_.first_blocks, rows_);
    const auto hits = probe_blocks(blocks, samples_of(blocks));
    if (!hits.has_value()) {
      return false;
    }
    const auto most = static_cast<int64_t>(kMaxDensity * static_cast<double>(blocks) * static_cast<double>(columns_));
    if (hits->count(blocks) > most + blocks * budget_.max_full_columns) {
      return false;
    }
    find_full_columns(*hits, blocks);
    // By blocks: which columns each has hit.
    hit_ = {blocks, columns_, {0}, {}};
    for (int64_t b = 0; b < blocks; ++b) {
      hits->for_each(b, [&](int64_t column) {
        if (!is_full_[column]) {
          hit_.col_ind.push_back(column);
        }
      });
      hit_.row_ptr.push_back(hit_.nnz());
    }
    return hit_.nnz() <= most;
  }

  // Whether few colours are to be expected: a row with d columns shares them with about d * d * rows / columns others.
  bool are_samples_sparse() const {
    int64_t most = 0;
    for (const std::vector<int64_t>& columns : columns_of_samples_) {
      const auto full = std::count_if(columns.begin(), columns.end(), [&](int64_t c) { return is_full_[c]; });
      most = std::max(most, static_cast<int64_t>(columns.size()) - static_cast<int64_t>(full));
    }
    const auto degree = static_cast<double>(most);
    return degree * degree * static_cast<double>(rows_) <=
        static_cast<double>(budget_.max_colors) * static_cast<double>(columns_);
  }

  // Or sure, since the rows of a block need no more than one each.
  bool is_promising(const Coloring& coloring) const {
    return is_refined_ || columns_of_samples_.empty() || coloring.num_colors * longest_block() <= budget_.max_colors ||
        are_samples_sparse();
  }

  bool is_worth_refining(const Coloring& coloring) const {
    const int64_t probes = coloring.num_colors * budget_.split;
    if (result_.probes + probes > budget_.max_probes) {
      return false;
    }
    const double entries = budget_.entry_cost * static_cast<double>(hit_.nnz());
    const double saved = (static_cast<double>(coloring.num_colors) + entries) * static_cast<double>(longest_block()) *
        (1 - 1 / static_cast<double>(budget_.split));
    return is_exact() || static_cast<double>(probes) + budget_.sweep_cost <= saved;
  }

  // Each row of a block takes a colour of its own.
  Coloring color_rows_of(const Coloring& blocks) const {
    const int64_t longest = longest_block();
    Coloring coloring{std::vector<int64_t>(rows_), blocks.num_colors * longest};
    for (int64_t b = 0; b < num_blocks(); ++b) {
      for (int64_t position = start_[b]; position < start_[b + 1]; ++position) {
        coloring.colors[row_at_.empty() ? position : row_at_[position]] =
            blocks.colors[b] * longest + position - start_[b];
      }
    }
    return coloring;
  }

  void find_full_columns(const HitBits& hits, int64_t blocks) {
    if (budget_.max_full_columns == 0 || blocks < kFewestForFull) {
      return;
    }
    std::vector<int64_t> counts(columns_, 0);
    for (int64_t b = 0; b < blocks; ++b) {
      hits.for_each(b, [&](int64_t column) { ++counts[column]; });
    }
    std::vector<int64_t> full;
    for (int64_t column = 0; column < columns_; ++column) {
      if (4 * counts[column] >= 3 * blocks) {
        full.push_back(column);
      }
    }
    if (static_cast<int64_t>(full.size()) <= budget_.max_full_columns) {
      for (const int64_t column : full) {
        is_full_[column] = true;
      }
      result_.full_columns = std::move(full);
    }
  }

  // None where the colouring would take too long. One order does: another would save fewer probes than it takes time.
  std::optional<Coloring> color_blocks() const {
    const SparsityPattern transposed = transpose(hit_);
    const int64_t max_work = std::min(greedy_work(transposed), kColoringSteps * (hit_.nnz() + columns_));
    return color_rows(hit_, transposed, max_work);
  }

  bool refine(const Coloring& coloring) {
    // The parts of block b are blocks [first_part[b], first_part[b + 1]) of the next level.
    std::vector<int64_t> first_part{0};
    std::vector<int64_t> start;
    std::vector<int64_t> group(rows_);
    for (int64_t b = 0; b < num_blocks(); ++b) {
      const int64_t length = start_[b + 1] - start_[b];
      const int64_t parts = std::min(budget_.split, length);
      for (int64_t q = 0; q < parts; ++q) {
        const int64_t begin = start_[b] + length * q / parts;
        const int64_t end = start_[b] + length * (q + 1) / parts;
        start.push_back(begin);
        std::fill(group.begin() + begin, group.begin() + end, coloring.colors[b] * budget_.split + q);
      }
      first_part.push_back(first_part.back() + parts);
    }
    start.push_back(rows_);
    const auto hits = run_probes(group, coloring.num_colors * budget_.split);
    if (!hits.has_value()) {
      return false;
    }
    SparsityPattern finer{first_part.back(), columns_, {0}, {}};
    for (int64_t b = 0; b < num_blocks(); ++b) {
      for (int64_t q = 0; q < first_part[b + 1] - first_part[b]; ++q) {
        const int64_t probe = coloring.colors[b] * budget_.split + q;
        for (int64_t k = hit_.row_ptr[b]; k < hit_.row_ptr[b + 1]; ++k) {
          if (hits->test(probe, hit_.col_ind[k])) {
            finer.col_ind.push_back(hit_.col_ind[k]);
          }
        }
        finer.row_ptr.push_back(finer.nnz());
      }
    }
    const int64_t probes = coloring.num_colors * budget_.split;
    if (finer.nnz() != hits->count(probes) - count_in_full_columns(*hits, probes)) {
      return false;
    }
    hit_ = std::move(finer);
    start_ = std::move(start);
    is_refined_ = true;
    return true;
  }

  int64_t count_in_full_columns(const HitBits& hits, int64_t probes) const {
    int64_t count = 0;
    for (const int64_t column : result_.full_columns) {
      for (int64_t probe = 0; probe < probes; ++probe) {
        count += hits.test(probe, column) ? 1 : 0;
      }
    }
    return count;
  }

  // Of the rows, each with all columns of its block, and with the full columns.
  SparsityPattern in_order_of_rows() const {
    std::vector<int64_t> block_of(rows_);
    for (int64_t b = 0; b < num_blocks(); ++b) {
      for (int64_t position = start_[b]; position < start_[b + 1]; ++position) {
        block_of[row_at_.empty() ? position : row_at_[position]] = b;
      }
    }
    const auto& full = result_.full_columns;
    SparsityPattern pattern{rows_, columns_, {0}, {}};
    pattern.row_ptr.reserve(rows_ + 1);
    pattern.col_ind.reserve(hit_.nnz() * longest_block() + rows_ * static_cast<int64_t>(full.size()));
    for (const int64_t block : block_of) {
      std::merge(
          hit_.col_ind.begin() + hit_.row_ptr[block],
          hit_.col_ind.begin() + hit_.row_ptr[block + 1],
          full.begin(),
          full.end(),
          std::back_inserter(pattern.col_ind));
      pattern.row_ptr.push_back(pattern.nnz());
    }
    return pattern;
  }

  const int64_t rows_;
  const int64_t columns_;
  const std::vector<int64_t>& row_at_;
  const ProbeBudget& budget_;
  const Probe& probe_;
  std::vector<bool> is_full_;
  std::vector<int64_t> start_;
  SparsityPattern hit_; // of blocks
  std::vector<std::vector<int64_t>> columns_of_samples_; // that each has hit
  bool is_refined_ = false; // beyond the first blocks
  ProbedPattern result_;
};

} // namespace

std::optional<ProbedPattern> find_pattern(
    int64_t rows,
    int64_t columns,
    const std::vector<int64_t>& row_at,
    const ProbeBudget& budget,
    const Probe& probe) {
  return Search(rows, columns, row_at, budget, probe).run();
}

std::optional<SparsityPattern> narrow_pattern(
    const SparsityPattern& pattern,
    const Coloring& coloring,
    const Probe& probe) {
  HitBits hits(coloring.num_colors, pattern.columns);
  if (!probe(coloring.colors, hits)) {
    return std::nullopt;
  }
  SparsityPattern narrowed{pattern.rows, pattern.columns, {0}, {}};
  for (int64_t row = 0; row < pattern.rows; ++row) {
    for (int64_t k = pattern.row_ptr[row]; k < pattern.row_ptr[row + 1]; ++k) {
      if (hits.test(coloring.colors[row], pattern.col_ind[k])) {
        narrowed.col_ind.push_back(pattern.col_ind[k]);
      }
    }
    narrowed.row_ptr.push_back(narrowed.nnz());
  }
  const bool are_explained = narrowed.nnz() == hits.count(coloring.num_colors);
  return are_explained ? std::optional(std::move(narrowed)) : std::nullopt;
}

} // namespace highgrad::structure
