// SPDX-License-Identifier: Apache-2.0
#include "net/oracle.h"

#include <algorithm>
#include <cmath>

namespace kvpack {
namespace {

uint32_t cells_of(const ContextCosts& costs, uint32_t chunk, uint32_t levels, double cell_bytes) {
  return static_cast<uint32_t>(static_cast<double>(costs.chunk_bytes(chunk, levels)) / cell_bytes);
}

}  // namespace

Oracle::Oracle(const Scenario& scenario, uint32_t grid) : scenario_(scenario) {
  const ContextCosts& costs = scenario_.context;
  cell_bytes_ = std::max(1.0, static_cast<double>(costs.total_bytes()) / grid);
  best_.assign(costs.chunks() + 1, {});
  choice_.resize(costs.chunks());
  best_.back().assign(grid + 1, 0);
  for (uint32_t chunk = costs.chunks(); chunk-- > 0;) {
    const std::vector<double>& after = best_[chunk + 1];
    std::vector<double>& best = best_[chunk];
    best.assign(grid + 1, kNoDeadline);
    choice_[chunk].assign(grid + 1, 0);
    for (uint32_t levels = 1; levels <= costs.levels(); ++levels) {
      const uint32_t cells = cells_of(costs, chunk, levels, cell_bytes_);
      const double left = costs.distortion_left(chunk, levels);
      for (uint32_t used = cells; used <= grid; ++used) {
        const double total = after[used - cells] + left;
        if (total < best[used]) {
          best[used] = total;
          choice_[chunk][used] = static_cast<uint8_t>(levels);
        }
      }
    }
  }
}

uint32_t Oracle::reachable_front(double engine_s) const {
  const ContextCosts& costs = scenario_.context;
  uint32_t front = 0;
  if (scenario_.goal.prefill_tokens_per_s <= 0 || !costs.recomputable) return 0;
  while (front < costs.chunks()) {
    engine_s -= costs.tokens[front] / scenario_.goal.prefill_tokens_per_s;
    if (engine_s < 0) break;
    ++front;
  }
  return front;
}

Oracle::Answer Oracle::solve(double bytes, uint32_t front) const {
  const ContextCosts& costs = scenario_.context;
  Answer answer;
  double base_bytes = 0;
  for (uint32_t chunk = front; chunk < costs.chunks(); ++chunk)
    base_bytes += static_cast<double>(costs.bytes[0][chunk]);
  answer.meets_deadline = base_bytes <= bytes;
  if (!answer.meets_deadline) return answer;
  const auto most = static_cast<double>(best_[front].size() - 1);
  auto cells = static_cast<uint32_t>(std::min(most, std::floor(std::max(bytes, 0.0) / cell_bytes_)));
  answer.distortion = best_[front][cells];
  answer.actions.assign(costs.chunks(), {ActionKind::kRecompute, 0, 1.0});
  for (uint32_t chunk = front; chunk < costs.chunks(); ++chunk) {
    const uint8_t levels = choice_[chunk][cells];
    answer.actions[chunk] = {ActionKind::kLoad, levels, 0.0};
    cells -= cells_of(costs, chunk, levels, cell_bytes_);
  }
  return answer;
}

Oracle::Answer Oracle::solve(const BandwidthTrace& trace, double start_s) const {
  const PlanGoal& goal = scenario_.goal;
  const ContextCosts& costs = scenario_.context;
  if (!std::isfinite(goal.deadline_s)) return solve(kNoDeadline, 0);
  const double latency_s = trace.latency_s(start_s);
  const double open_s = trace.time_of(start_s + latency_s, static_cast<double>(costs.opening_bytes)) - start_s;
  constexpr double kToleranceS = 1e-3;  // as meets_deadline() has it
  const double end_s = loading_deadline_s(costs, goal) + kToleranceS;
  const double engine_s = goal.deadline_s - goal.last_prefill_s + kToleranceS - open_s;
  const double bytes = end_s > open_s ? trace.bytes_between(start_s + open_s, start_s + end_s) : 0;
  if (engine_s < 0) return {};
  return solve(bytes, reachable_front(engine_s));
}

}  // namespace kvpack
