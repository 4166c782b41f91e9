// SPDX-License-Identifier: Apache-2.0
// A link's bandwidth over time, for the simulator: periods of constant bandwidth and latency, repeated for ever.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/result.h"

namespace kvpack {

struct TracePeriod {
  double duration_s = 0;
  double bytes_per_s = 0;
  double latency_s = 0;
};

class BandwidthTrace {
 public:
  // Errors: invalid_argument unless every number is finite, no duration or bandwidth is negative, and the whole carries
  // anything.
  static Result<BandwidthTrace> create(std::string name, std::vector<TracePeriod> periods);
  // A link that never changes.
  static BandwidthTrace constant(double bytes_per_s, double latency_s);

  const std::string& name() const { return name_; }
  const std::vector<TracePeriod>& periods() const { return periods_; }
  double duration_s() const { return duration_s_; }
  double mean_bytes_per_s() const { return bytes_ / duration_s_; }
  double latency_s(double at_s) const;

  // Bytes carried between two times.
  double bytes_between(double from_s, double to_s) const { return carried(to_s) - carried(from_s); }
  // When `bytes` more will have been carried.
  double time_of(double from_s, double bytes) const;

  BandwidthTrace scaled(double factor) const;  // every bandwidth times `factor`

 private:
  double carried(double until_s) const;  // bytes since time 0

  std::string name_;
  std::vector<TracePeriod> periods_;
  std::vector<double> begin_s_;  // [period], and the end
  std::vector<double> begin_bytes_;
  double duration_s_ = 0;
  double bytes_ = 0;
};

// A JSON list of {"duration_ms", "bandwidth_kbps", "latency_ms"} (the format of UMass-LIDS/sabre's example traces;
// latency_ms may be absent), or text lines "SECONDS MBIT_PER_S" (that of hongzimao/pensieve's cooked traces), '#'
// comments. Errors: invalid_argument, with the line or entry.
Result<BandwidthTrace> parse_trace(std::string name, std::string_view text);
Result<BandwidthTrace> read_trace(const std::string& path);

}  // namespace kvpack
