// SPDX-License-Identifier: Apache-2.0
// Links that do one thing wrong each, for the simulator and its tests. Deterministic: chance comes from `seed`.
#pragma once

#include <cstdint>

#include "net/trace.h"

namespace kvpack {

// `before` until `at_s`, `after` from then on (long enough for any deadline).
BandwidthTrace step_trace(double before_bytes_per_s, double after_bytes_per_s, double at_s, double latency_s);
// From one bandwidth to another within `ramp_s`, in 50 steps, then there to stay.
BandwidthTrace ramp_trace(double from_bytes_per_s, double to_bytes_per_s, double ramp_s, double latency_s);
// Nothing at all between `at_s` and `at_s + outage_s`.
BandwidthTrace outage_trace(double bytes_per_s, double at_s, double outage_s, double latency_s);
// A cloud's token bucket: `burst_bytes` at `burst_bytes_per_s`, then the bucket's refill rate.
BandwidthTrace token_bucket_trace(double burst_bytes_per_s, double burst_bytes, double refill_bytes_per_s,
                                  double latency_s);
// Loss as one TCP Reno flow feels it (RFC 5681): the rate halves at random, `losses_per_s` times a second, climbs back
// linearly within `recovery_s`, and one loss in ten is a timeout of 200 ms (RFC 6298 with Linux's minimum).
BandwidthTrace lossy_trace(double bytes_per_s, double losses_per_s, double recovery_s, double latency_s, uint64_t seed);

}  // namespace kvpack
