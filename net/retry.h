// SPDX-License-Identifier: Apache-2.0
// When to try again: exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS
// Architecture Blog, 2015), Retry-After respected, all within a deadline and a budget. The schedule is pure: time and
// chance are passed in.
#pragma once

#include <cstdint>
#include <optional>
#include <random>

#include "net/http_client.h"

namespace kvpack {

struct RetryOptions {
  uint32_t max_attempts = 6;  // in a row without progress
  double first_delay_s = 0.1;
  double longest_delay_s = 5;
  double longest_retry_after_s = 30;  // what a server may ask us to wait; more is an error
  // Everything together may take patience_s + bytes / slowest_bytes_per_s, deadline or not, so that a server that
  // drips, or always breaks off, is given up on.
  double patience_s = 60;
  double slowest_bytes_per_s = 1024;
};

// Statuses that say "later": 408, 425, 429, 500, 502, 503, 504.
bool is_retryable_status(int status);

class RetrySchedule {
 public:
  // `bytes`: how many are wanted in all. `seed` makes the jitter repeatable in tests.
  RetrySchedule(const RetryOptions& options, uint64_t bytes, NetTime now, NetTime deadline, uint64_t seed);

  // When everything has to be over.
  NetTime give_up_at() const { return give_up_at_; }
  // After a failed attempt: when to try again, or nullopt to give up. `progress`: the attempt delivered a good part.
  // `retry_after_s`: what the server asked for, if it did.
  std::optional<NetTime> next(NetTime now, bool progress, std::optional<double> retry_after_s);

 private:
  RetryOptions options_;
  NetTime give_up_at_;
  uint32_t failures_ = 0;
  std::mt19937_64 random_;
};

// exchange() with retries for lost connections and statuses that say "later"; anything else is returned as it is.
Result<HttpResponse> exchange_with_retries(HttpClient& client, const HttpRequest& request, const RetryOptions& options);

}  // namespace kvpack
