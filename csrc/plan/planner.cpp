#include "plan/planner.h"

#include <c10/util/irange.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "plan/bottlenecks.h"
#include "plan/cost.h"

namespace highgrad::plan {
namespace {

// Nanoseconds of reverse mode below which nothing else is thought of.
constexpr double kWorthPlanning = 60e3;

// Of reverse mode's time, what another plan may take at most: estimates are rough, and reverse mode has no surprises.
constexpr double kMostOfReverse = 0.9;

constexpr size_t kMostCuts = 8;

// Of an element that is copied into the result.
constexpr double kBytesOfCopy = 8;

constexpr double kNever = std::numeric_limits<double>::infinity();

// A tensor at which the tape may be cut, or one of its ends.
struct Cut {
  tape::Slot slot;
  int64_t numel;
};

int64_t numel_at(const tape::Tape& tape, tape::Slot slot) {
  const auto shape = tape::shape_of(*tape.nodes[slot.node].node, slot.input_nr);
  if (!shape.has_value()) {
    return 0;
  }
  int64_t numel = 1;
  for (const int64_t size : *shape) {
    numel *= size;
  }
  return numel;
}

// Whether the Jacobian is the product of those above and below: the tensor is strided, real, and as precise as the
// rest.
bool may_cut(const tape::Tape& tape, tape::Slot slot) {
  const auto& metadata = tape.nodes[slot.node].node->input_metadata(slot.input_nr);
  const auto& of_output = tape.nodes[tape.output.node].node->input_metadata(tape.output.input_nr);
  return !metadata.is_tensor_subclass() && metadata.layout() == at::kStrided && metadata.dtype() == of_output.dtype() &&
      metadata.device() == of_output.device();
}

// The narrowest bottlenecks in the order of the tape; of equal ones in a row, the first.
std::vector<Cut> choose_cuts(const Request& request) {
  const int64_t bound = std::min(request.rows, request.columns);
  std::vector<Cut> cuts;
  for (const tape::Slot& slot : find_bottlenecks(request.tape)) {
    const int64_t numel = numel_at(request.tape, slot);
    if (numel > 0 && numel < bound && (cuts.empty() || cuts.back().numel != numel) && may_cut(request.tape, slot)) {
      cuts.push_back({slot, numel});
    }
  }
  while (cuts.size() > kMostCuts) {
    cuts.erase(
        std::max_element(cuts.begin(), cuts.end(), [](const Cut& a, const Cut& b) { return a.numel < b.numel; }));
  }
  return cuts;
}

bool is_linear(const tape::Tape& tape) {
  return std::all_of(
      tape.nodes.begin(), tape.nodes.end(), [](const tape::TapeNode& node) { return tape::is_vjp_linear(*node.node); });
}

std::string describe(const Request& request, const std::vector<Segment>& segments) {
  if (segments.size() == 1) {
    const bool forward = segments.front().mode == Mode::kForward;
    return std::string(forward ? "forward: " : "reverse: ") + std::to_string(request.columns) + " inputs against " +
        std::to_string(request.rows) + " outputs";
  }
  std::string widths;
  for (const auto i : c10::irange<size_t>(1, segments.size())) {
    widths += (i > 1 ? ", " : "") + std::to_string(segments[i].rows);
  }
  return "split where all of the graph passes through " + widths + " elements, with " +
      std::to_string(request.columns) + " inputs and " + std::to_string(request.rows) + " outputs";
}

// The cheapest chain of segments whose ends are among the cuts, by dynamic programming from the output on.
class Chains {
 public:
  Chains(const Request& request, const CostModel& model) : request_(request), model_(model) {
    const tape::Tape& tape = request.tape;
    cuts_.push_back({tape.output, request.rows});
    if (request.may_split && is_linear(tape)) {
      const std::vector<Cut> inner = choose_cuts(request);
      cuts_.insert(cuts_.end(), inner.begin(), inner.end());
    }
    cuts_.push_back({{}, request.columns});
    // What lies between two neighbours.
    parts_.resize(cuts_.size() - 1);
    size_t part = 0;
    for (const auto i : c10::irange(tape.nodes.size())) {
      while (part + 2 < cuts_.size() && static_cast<int64_t>(i) >= cuts_[part + 1].slot.node) {
        ++part;
      }
      parts_[part].add(work_of(tape, tape.nodes[i]));
    }
    for (const auto i : c10::irange(parts_.size())) {
      heads_.push_back(work_of_known_head(tape, cuts_[i].slot));
    }
  }

  // Of the whole tape.
  Work work() const {
    return between(0, cuts_.size() - 1);
  }

  double reverse_cost() const {
    return reverse(0, cuts_.size() - 1);
  }

  // And what it costs.
  std::pair<std::vector<Segment>, double> cheapest() const {
    const size_t last = cuts_.size() - 1;
    std::vector<double> cost(cuts_.size(), kNever);
    std::vector<size_t> before(cuts_.size(), 0);
    std::vector<Mode> mode(cuts_.size(), Mode::kReverse);
    cost[0] = 0;
    for (const auto end : c10::irange<size_t>(1, cuts_.size())) {
      for (const auto begin : c10::irange(end)) {
        const Work work = between(begin, end);
        const double backward = reverse(begin, end);
        const double forward =
            request_.may_forward ? model_.forward(work, cuts_[begin].numel, cuts_[end].numel) : kNever;
        const double join = begin == 0 ? 0 : model_.product(request_.rows, cuts_[begin].numel, cuts_[end].numel);
        const double total = cost[begin] + join + std::min(backward, forward);
        if (total < cost[end]) {
          cost[end] = total;
          before[end] = begin;
          mode[end] = forward < backward ? Mode::kForward : Mode::kReverse;
        }
      }
    }
    std::vector<Segment> segments;
    for (size_t end = last; end > 0; end = before[end]) {
      const Cut& root = cuts_[before[end]];
      segments.push_back({root.slot, mode[end], root.numel, cuts_[end].numel});
    }
    std::reverse(segments.begin(), segments.end());
    return {segments, cost[last]};
  }

 private:
  double reverse(size_t begin, size_t end) const {
    Work work = between(begin, end);
    // A segment that is nothing but its head would cost nothing, and save nothing, unless it is all that there is: a
    // copy.
    if (heads_[begin].multiplications < work.row.multiplications) {
      work.row.add(heads_[begin].times(-1));
    } else if (heads_[begin].multiplications > 0 && end - begin + 1 == cuts_.size()) {
      work.row = {kBytesOfCopy * static_cast<double>(cuts_[end].numel)};
    }
    return model_.reverse(work, cuts_[begin].numel);
  }

  Work between(size_t begin, size_t end) const {
    Work sum;
    for (const auto part : c10::irange(begin, end)) {
      sum.add(parts_[part]);
    }
    return sum;
  }

  const Request& request_;
  const CostModel& model_;
  std::vector<Cut> cuts_; // the output, the cuts, all inputs
  std::vector<Work> parts_;
  std::vector<PassWork> heads_; // that sweeps from each cut leave out
};

} // namespace

OutputPlan plain_plan(const Request& request, Mode mode, std::string reason) {
  return {
      {{request.tape.output, mode, request.rows, request.columns}},
      std::move(reason),
      static_cast<double>(request.rows)};
}

OutputPlan plan_output(const Request& request) {
  if (request.mode != Mode::kAuto) {
    return plain_plan(
        request, request.mode, request.mode == Mode::kForward ? "forward: as asked" : "reverse: as asked");
  }
  const auto plain = [&] {
    return plain_plan(request, Mode::kReverse, describe(request, {{request.tape.output, Mode::kReverse, 0, 0}}));
  };
  if (request.rows <= kFewRows || (!request.may_forward && !request.may_split)) {
    return plain();
  }
  const CostModel& model = cost_model(request.device, request.needs_engine);
  const Chains chains(request, model);
  const double reverse = chains.reverse_cost();
  OutputPlan all_rows = plain();
  all_rows.nanoseconds = reverse;
  all_rows.work = chains.work();
  if (reverse < kWorthPlanning) {
    return all_rows;
  }
  auto [segments, cost] = chains.cheapest();
  if (cost > kMostOfReverse * reverse) {
    return all_rows;
  }
  std::string reason = describe(request, segments);
  return {
      std::move(segments), std::move(reason), cost / reverse * static_cast<double>(request.rows), cost, chains.work()};
}

} // namespace highgrad::plan
