// SPDX-License-Identifier: Apache-2.0
// Contexts for tests of planner, simulator and policies.
#pragma once

#include <cmath>
#include <random>

#include "net/context_costs.h"

namespace kvpack {

// `chunks` chunks of 256 tokens, three levels of about 10, 40 and 50 kB, each leaving a ninth of the distortion.
inline ContextCosts sample_costs(uint32_t chunks, double spread = 0.2, uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> wobble(0, spread);
  ContextCosts costs;
  costs.opening_bytes = 4096;
  costs.tokens.assign(chunks, 256);
  costs.bytes.resize(3);
  costs.distortion.resize(3);
  for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
    const double size = std::exp(wobble(random)), difficulty = 81 * std::exp(wobble(random));
    costs.bytes[0].push_back(static_cast<uint64_t>(10'000 * size));
    costs.bytes[1].push_back(static_cast<uint64_t>(40'000 * size));
    costs.bytes[2].push_back(static_cast<uint64_t>(50'000 * size));
    for (uint32_t level = 0; level < 3; ++level) costs.distortion[level].push_back(difficulty / std::pow(9, level));
  }
  costs.raw_bytes = uint64_t{chunks} * 1'000'000;
  return costs;
}

// A link that has been measured well.
inline ThroughputEstimate known_link(double bytes_per_s, double latency_s = 0.02) {
  ThroughputEstimator estimator;
  for (int i = 0; i < 40; ++i) {
    const uint64_t bytes = 40'000 + 20'000 * (static_cast<uint64_t>(i) % 5);
    const bool from_idle = i % 3 == 0;
    estimator.add({bytes, (from_idle ? latency_s : 0) + static_cast<double>(bytes) / bytes_per_s, from_idle});
  }
  return estimator.estimate();
}

}  // namespace kvpack
