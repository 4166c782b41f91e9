// SPDX-License-Identifier: Apache-2.0
// What tests of range sources share: options that fail fast, and reading one range to its end.
#pragma once

#include <doctest/doctest.h>

#include <chrono>
#include <optional>
#include <random>
#include <string>

#include "net/range_source.h"

namespace kvpack {

inline RangeSourceOptions quick_options() {
  RangeSourceOptions options;
  options.http.stall_s = 0.4;
  options.http.stall_bytes = 256;
  options.http.connect_timeout_s = 2;
  options.retry.first_delay_s = 0.01;
  options.retry.longest_delay_s = 0.05;
  options.retry.max_attempts = 3;
  options.retry.patience_s = 3;
  options.retry.slowest_bytes_per_s = 1e6;
  return options;
}

inline std::string random_text(size_t bytes, uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

struct ReadRange {
  RangeOutcome outcome;
  std::string bytes;
};

inline ReadRange read_range(RangeSource& source, ByteRange range, NetTime deadline = kNever) {
  ReadRange result;
  bool ended = false;
  RangeRequest request;
  request.range = range;
  request.deadline = deadline;
  request.on_bytes = [&](ByteSpan bytes) -> Status {
    result.bytes += as_text(bytes);
    return {};
  };
  request.on_done = [&](const RangeOutcome& outcome) {
    result.outcome = outcome;
    ended = true;
  };
  source.start(std::move(request));
  while (!ended) source.poll(kNever);
  return result;
}

inline NetTime in_seconds(double seconds) {
  return NetClock::now() + std::chrono::duration_cast<NetClock::duration>(std::chrono::duration<double>(seconds));
}

// Fails the test if what it guards takes longer.
class TimeLimit {
 public:
  explicit TimeLimit(double seconds) : seconds_(seconds), start_(NetClock::now()) {}
  ~TimeLimit() { CHECK(std::chrono::duration<double>(NetClock::now() - start_).count() < seconds_); }

 private:
  double seconds_;
  NetTime start_;
};

}  // namespace kvpack
