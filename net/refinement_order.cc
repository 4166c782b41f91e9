// SPDX-License-Identifier: Apache-2.0
#include "net/refinement_order.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace kvpack {
namespace {

constexpr double kRanksPerOctave = 2;
constexpr double kNeverWorthIt = 1e9;  // a rank after all others

double rank_of(double removed_per_byte) {
  return removed_per_byte > 0 ? -std::floor(kRanksPerOctave * std::log2(removed_per_byte)) : kNeverWorthIt;
}

// The chunk's levels from `held` on, in segments of the hull: each segment is as long as it gains.
void append_hull(const ContextCosts& costs, uint32_t chunk, uint32_t held, std::vector<Refinement>& out) {
  while (held < costs.levels()) {
    uint32_t best_end = held + 1;
    double best = -1;
    uint64_t bytes = 0;
    for (uint32_t end = held + 1; end <= costs.levels(); ++end) {
      bytes += costs.bytes[end - 1][chunk];
      const double removed = costs.distortion[held - 1][chunk] - costs.distortion[end - 1][chunk];
      const double rate = std::max(0.0, removed) / static_cast<double>(std::max<uint64_t>(bytes, 1));
      if (rate > best) {
        best = rate;
        best_end = end;
      }
    }
    for (; held < best_end; ++held) out.push_back({held, chunk, costs.bytes[held][chunk], best});
  }
}

}  // namespace

std::vector<Refinement> refinement_order(const ContextCosts& costs, const std::vector<uint8_t>& levels_held,
                                         uint32_t first_chunk) {
  std::vector<Refinement> order;
  for (uint32_t chunk = first_chunk; chunk < costs.chunks(); ++chunk) {
    append_hull(costs, chunk, std::max<uint32_t>(levels_held[chunk], 1), order);
  }
  // Nearly equal rates stay in order of level and chunk, which makes longer ranges.
  std::vector<std::pair<double, Refinement>> ranked;
  for (const Refinement& refinement : order) ranked.emplace_back(rank_of(refinement.removed_per_byte), refinement);
  std::sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first, a.second.level, a.second.chunk) < std::tie(b.first, b.second.level, b.second.chunk);
  });
  for (size_t i = 0; i < order.size(); ++i) order[i] = ranked[i].second;
  return order;
}

std::vector<RangeStep> coalesce(std::vector<Refinement> refinements) {
  std::sort(refinements.begin(), refinements.end(), [](const Refinement& a, const Refinement& b) {
    return std::tie(a.level, a.chunk) < std::tie(b.level, b.chunk);
  });
  std::vector<RangeStep> steps;
  for (const Refinement& refinement : refinements) {
    if (!steps.empty() && steps.back().first_level == refinement.level &&
        steps.back().first_chunk + steps.back().chunks == refinement.chunk) {
      ++steps.back().chunks;
    } else {
      steps.push_back({refinement.level, 1, refinement.chunk, 1});
    }
  }
  return steps;
}

}  // namespace kvpack
