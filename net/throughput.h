// SPDX-License-Identifier: Apache-2.0
// How fast a link is: a regression of the time it was busy on what it carried.
//
//   busy seconds = latency x (the link was idle before) + seconds_per_byte x bytes + noise
//
// Busy time is that of the whole link, whatever number of requests shared it: a transfer that began while another was
// under way pays no latency of its own. Old samples fade, so that the estimate follows the link. Pure: the clock is the
// caller's.
#pragma once

#include <cstdint>

namespace kvpack {

struct TransferSample {
  uint64_t bytes = 0;
  double busy_s = 0;
  bool from_idle = false;
};

struct Forecast {
  double mean_s = 0;
  double error_s = 0;  // standard error
  double late_s(double z) const { return mean_s + z * error_s; }
};

struct ThroughputEstimate {
  double latency_s = 0;
  double seconds_per_byte = 0;  // 0: nothing is known yet
  double latency_error_s = 0;
  double seconds_per_byte_error = 0;
  double error_covariance = 0;   // of the two errors
  double noise_s2_per_byte = 0;  // variance that a transfer adds per byte: rates change while it runs
  double samples = 0;            // effective number

  bool known() const { return seconds_per_byte > 0; }
  double bytes_per_s() const { return known() ? 1 / seconds_per_byte : 0; }
  // Of `bytes` more bytes.
  Forecast predict(uint64_t bytes, bool from_idle) const;
};

// What an estimator remembers; what is stored per host.
struct ThroughputMemory {
  double samples = 0;          // sum of weights
  double idle = 0;             // sum of x1, x1 = 1 for a transfer from idle, else 0
  double idle_bytes = 0;       // x1 x2, x2 = bytes
  double bytes_squared = 0;    // x2^2
  double idle_seconds = 0;     // x1 y, y = busy seconds
  double bytes_seconds = 0;    // x2 y
  double seconds_squared = 0;  // y^2
  double bytes = 0;            // x2
};

class ThroughputEstimator {
 public:
  ThroughputEstimator() = default;
  // `memory` of an earlier session counts as at most `max_samples` samples.
  explicit ThroughputEstimator(const ThroughputMemory& memory, double max_samples = 4);

  void add(const TransferSample& sample);
  ThroughputEstimate estimate() const;
  const ThroughputMemory& memory() const { return memory_; }

 private:
  ThroughputMemory memory_;
};

// Makes samples out of the beginnings, bytes and ends of transfers that overlap.
class BusyMeter {
 public:
  explicit BusyMeter(ThroughputEstimator& estimator, uint64_t sample_bytes = 64 * 1024)
      : estimator_(estimator), sample_bytes_(sample_bytes) {}

  void begin(double now_s);
  void deliver(double now_s, uint64_t bytes);
  void end(double now_s);
  // How long the link has been busy without delivering anything.
  double silent_s(double now_s) const { return active_ > 0 ? now_s - last_byte_s_ : 0; }

 private:
  void flush(double now_s);

  ThroughputEstimator& estimator_;
  const uint64_t sample_bytes_;  // a sample has at least that many, so that bursts of a socket even out
  uint32_t active_ = 0;
  bool from_idle_ = false;
  uint64_t bytes_ = 0;
  double sample_begin_s_ = 0;
  double last_byte_s_ = 0;
};

}  // namespace kvpack
