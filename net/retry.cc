// SPDX-License-Identifier: Apache-2.0
#include "net/retry.h"

#include <algorithm>
#include <cmath>

namespace kvpack {
namespace {

NetTime after(NetTime time, double seconds) {
  constexpr double kLongestSeconds = 1e8;  // three years; keeps the sum in range
  return time + std::chrono::duration_cast<NetClock::duration>(
                    std::chrono::duration<double>(std::clamp(seconds, 0.0, kLongestSeconds)));
}

}  // namespace

bool is_retryable_status(int status) {
  return status == 408 || status == 425 || status == 429 || status == 500 || (status >= 502 && status <= 504);
}

RetrySchedule::RetrySchedule(const RetryOptions& options, uint64_t bytes, NetTime now, NetTime deadline, uint64_t seed)
    : options_(options),
      give_up_at_(std::min(deadline,
                           after(now, options.patience_s + static_cast<double>(bytes) / options.slowest_bytes_per_s))),
      random_(seed) {}

std::optional<NetTime> RetrySchedule::next(NetTime now, bool progress, std::optional<double> retry_after_s) {
  failures_ = progress ? 1 : failures_ + 1;
  if (failures_ >= options_.max_attempts) return std::nullopt;
  const double ceiling =
      std::min(options_.longest_delay_s, options_.first_delay_s * std::exp2(std::min(failures_ - 1, 30u)));
  double delay = std::uniform_real_distribution<double>(0, ceiling)(random_);
  if (retry_after_s) {
    if (*retry_after_s > options_.longest_retry_after_s) return std::nullopt;
    delay += *retry_after_s;
  }
  const NetTime at = after(now, delay);
  if (at >= give_up_at_) return std::nullopt;
  return at;
}

}  // namespace kvpack
