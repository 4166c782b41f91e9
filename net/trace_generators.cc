// SPDX-License-Identifier: Apache-2.0
#include "net/trace_generators.h"

#include <algorithm>
#include <random>

namespace kvpack {
namespace {

constexpr double kLongS = 1e5;  // "for ever"
constexpr int kRampSteps = 50;
constexpr double kSliceS = 0.01;
constexpr double kLossyTraceS = 120;
constexpr double kTimeoutS = 0.2;

BandwidthTrace named(const char* name, std::vector<TracePeriod> periods) {
  return BandwidthTrace::create(name, std::move(periods)).value();
}

}  // namespace

BandwidthTrace step_trace(double before_bytes_per_s, double after_bytes_per_s, double at_s, double latency_s) {
  return named("step", {{at_s, before_bytes_per_s, latency_s}, {kLongS, after_bytes_per_s, latency_s}});
}

BandwidthTrace ramp_trace(double from_bytes_per_s, double to_bytes_per_s, double ramp_s, double latency_s) {
  std::vector<TracePeriod> periods;
  for (int i = 0; i < kRampSteps; ++i) {
    const double rate = from_bytes_per_s + (to_bytes_per_s - from_bytes_per_s) * (i + 0.5) / kRampSteps;
    periods.push_back({ramp_s / kRampSteps, rate, latency_s});
  }
  periods.push_back({kLongS, to_bytes_per_s, latency_s});
  return named("ramp", std::move(periods));
}

BandwidthTrace outage_trace(double bytes_per_s, double at_s, double outage_s, double latency_s) {
  return named("outage", {{at_s, bytes_per_s, latency_s}, {outage_s, 0, latency_s}, {kLongS, bytes_per_s, latency_s}});
}

BandwidthTrace token_bucket_trace(double burst_bytes_per_s, double burst_bytes, double refill_bytes_per_s,
                                  double latency_s) {
  // The bucket refills while it drains.
  const double burst_s = burst_bytes / std::max(burst_bytes_per_s - refill_bytes_per_s, 1.0);
  return named("token bucket", {{burst_s, burst_bytes_per_s, latency_s}, {kLongS, refill_bytes_per_s, latency_s}});
}

BandwidthTrace lossy_trace(double bytes_per_s, double losses_per_s, double recovery_s, double latency_s,
                           uint64_t seed) {
  std::mt19937_64 random(seed);
  std::bernoulli_distribution loss(std::min(1.0, losses_per_s * kSliceS));
  std::bernoulli_distribution timeout(0.1);
  std::vector<TracePeriod> periods;
  double window = 1;  // of the full rate
  double at_s = 0;
  while (at_s < kLossyTraceS) {
    periods.push_back({kSliceS, bytes_per_s * window, latency_s});
    at_s += kSliceS;
    window = std::min(1.0, window + 0.5 * kSliceS / recovery_s);
    if (!loss(random)) continue;
    window = std::max(0.02, window / 2);
    if (!timeout(random)) continue;
    periods.push_back({kTimeoutS, 0, latency_s});
    at_s += kTimeoutS;
    window = 0.1;
  }
  return named("lossy", std::move(periods));
}

}  // namespace kvpack
