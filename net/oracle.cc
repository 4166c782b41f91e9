// SPDX-License-Identifier: Apache-2.0
#include "net/oracle.h"

#include <algorithm>
#include <cmath>

namespace kvpack {

Oracle::Oracle(const Scenario& scenario, uint32_t grid) : scenario_(scenario) {
  const ContextCosts& costs = scenario_.context;
  const PlanGoal& goal = scenario_.goal;
  if (goal.prefill_tokens_per_s > 0 && costs.recomputable && std::isfinite(goal.deadline_s)) {
    double engine_s = 0;
    while (front_ < costs.chunks()) {
      engine_s += costs.tokens[front_] / goal.prefill_tokens_per_s;
      if (!meets_deadline(engine_s + goal.last_prefill_s, goal.deadline_s)) break;
      ++front_;
    }
  }
  cell_bytes_ = std::max(1.0, static_cast<double>(costs.total_bytes()) / grid);
  best_.assign(grid + 1, 0);
  for (uint32_t chunk = front_; chunk < costs.chunks(); ++chunk) {
    base_bytes_ += costs.bytes[0][chunk];
    std::vector<double> next(grid + 1, kNoDeadline);
    std::vector<uint8_t>& choice = choice_.emplace_back(grid + 1, 0);
    for (uint32_t levels = 1; levels <= costs.levels(); ++levels) {
      const auto cells = static_cast<uint32_t>(static_cast<double>(costs.chunk_bytes(chunk, levels)) / cell_bytes_);
      const double left = costs.distortion_left(chunk, levels);
      for (uint32_t used = cells; used <= grid; ++used) {
        const double total = best_[used - cells] + left;
        if (total < next[used]) {
          next[used] = total;
          choice[used] = static_cast<uint8_t>(levels);
        }
      }
    }
    best_ = std::move(next);
  }
}

Oracle::Answer Oracle::solve(double bytes) const {
  const ContextCosts& costs = scenario_.context;
  Answer answer;
  // The tolerance in time is worth a few bytes too.
  answer.meets_deadline = static_cast<double>(base_bytes_) <= bytes;
  if (!answer.meets_deadline) return answer;
  const double most = static_cast<double>(best_.size() - 1);
  auto cells = static_cast<uint32_t>(std::min(most, std::floor(bytes / cell_bytes_)));
  answer.distortion = best_[cells];
  answer.actions.assign(costs.chunks(), {ActionKind::kRecompute, 0, 1.0});
  for (uint32_t chunk = costs.chunks(); chunk-- > front_;) {
    const uint8_t levels = choice_[chunk - front_][cells];
    answer.actions[chunk] = {ActionKind::kLoad, levels, 0.0};
    cells -= static_cast<uint32_t>(static_cast<double>(costs.chunk_bytes(chunk, levels)) / cell_bytes_);
  }
  return answer;
}

Oracle::Answer Oracle::solve(const BandwidthTrace& trace, double start_s) const {
  const PlanGoal& goal = scenario_.goal;
  if (!std::isfinite(goal.deadline_s)) return solve(kNoDeadline);
  const double begin_s = trace.latency_s(start_s);
  const double end_s = goal.deadline_s - goal.last_prefill_s + 1e-3;  // as meets_deadline() has it
  if (end_s <= begin_s) return solve(-1);
  return solve(trace.bytes_between(start_s + begin_s, start_s + end_s) -
               static_cast<double>(scenario_.context.opening_bytes));
}

}  // namespace kvpack
