// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace kvpack::cli {

std::string grouped(uint64_t number);                  // "2,648,252"
std::string short_bytes(double bytes);                 // "2.65 MB" (powers of 1000)
std::string short_duration(double seconds);            // "0.012 s", "1:05"
std::string short_rate(double bytes, double seconds);  // "812 MB/s"
std::string short_error(double relative_error);        // "0", "1.2e-03"
inline double per(double amount, double of) { return of > 0 ? amount / of : 0; }

// Seconds since construction or the last lap().
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  double lap() {
    const double elapsed = seconds();
    start_ = Clock::now();
    return elapsed;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace kvpack::cli
