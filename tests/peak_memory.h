// SPDX-License-Identifier: Apache-2.0
// Fails a test whose input made this process grow: nothing may be allocated from an unchecked length.
#pragma once

#include <doctest/doctest.h>
#include <sys/resource.h>

namespace kvpack::test {

class PeakGuard {
 public:
  explicit PeakGuard(long limit_kib) : limit_kib_(limit_kib) {}
  ~PeakGuard() { CHECK(peak_kib() - before_kib_ < limit_kib_); }
  PeakGuard(const PeakGuard&) = delete;
  PeakGuard& operator=(const PeakGuard&) = delete;

 private:
  static long peak_kib() {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  }
  long limit_kib_;
  long before_kib_ = peak_kib();
};

}  // namespace kvpack::test
