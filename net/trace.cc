// SPDX-License-Identifier: Apache-2.0
#include "net/trace.h"

#include <algorithm>
#include <cmath>

namespace kvpack {

Result<BandwidthTrace> BandwidthTrace::create(std::string name, std::vector<TracePeriod> periods) {
  BandwidthTrace trace;
  trace.name_ = std::move(name);
  for (const TracePeriod& period : periods) {
    const bool sound = std::isfinite(period.duration_s) && std::isfinite(period.bytes_per_s) &&
                       std::isfinite(period.latency_s) && period.duration_s >= 0 && period.bytes_per_s >= 0 &&
                       period.latency_s >= 0;
    if (!sound) return invalid_argument(trace.name_ + ": a trace period has a negative or infinite number");
    if (period.duration_s == 0) continue;
    trace.begin_s_.push_back(trace.duration_s_);
    trace.begin_bytes_.push_back(trace.bytes_);
    trace.duration_s_ += period.duration_s;
    trace.bytes_ += period.duration_s * period.bytes_per_s;
    trace.periods_.push_back(period);
  }
  trace.begin_s_.push_back(trace.duration_s_);
  trace.begin_bytes_.push_back(trace.bytes_);
  if (!(trace.bytes_ > 0) || !std::isfinite(trace.bytes_)) {
    return invalid_argument(trace.name_ + ": the trace carries no bytes");
  }
  return trace;
}

BandwidthTrace BandwidthTrace::constant(double bytes_per_s, double latency_s) {
  auto trace = create("constant", {{1, bytes_per_s, latency_s}});
  return std::move(trace).value();
}

double BandwidthTrace::latency_s(double at_s) const {
  const double phase = std::fmod(at_s, duration_s_);
  const auto after = std::upper_bound(begin_s_.begin(), begin_s_.end() - 1, phase);
  return periods_[static_cast<size_t>(after - begin_s_.begin()) - 1].latency_s;
}

double BandwidthTrace::carried(double until_s) const {
  const double rounds = std::floor(until_s / duration_s_);
  const double phase = std::clamp(until_s - rounds * duration_s_, 0.0, duration_s_);
  const auto after = std::upper_bound(begin_s_.begin(), begin_s_.end() - 1, phase);
  const auto index = static_cast<size_t>(after - begin_s_.begin()) - 1;
  return rounds * bytes_ + begin_bytes_[index] + (phase - begin_s_[index]) * periods_[index].bytes_per_s;
}

double BandwidthTrace::time_of(double from_s, double bytes) const {
  if (bytes <= 0) return from_s;
  const double target = carried(from_s) + bytes;
  double rounds = std::floor(target / bytes_);
  double rest = target - rounds * bytes_;
  if (rest <= 0 && rounds > 0) {  // exactly at the end of a round
    rounds -= 1;
    rest += bytes_;
  }
  // The first period at whose end `rest` has been carried; it carries something, or the one before would do.
  const auto end = std::lower_bound(begin_bytes_.begin() + 1, begin_bytes_.end() - 1, rest);
  const auto index = static_cast<size_t>(end - begin_bytes_.begin()) - 1;
  const double rate = periods_[index].bytes_per_s;
  const double within = rate > 0 ? (rest - begin_bytes_[index]) / rate : periods_[index].duration_s;
  return std::max(from_s, rounds * duration_s_ + begin_s_[index] + std::min(within, periods_[index].duration_s));
}

BandwidthTrace BandwidthTrace::scaled(double factor) const {
  std::vector<TracePeriod> periods = periods_;
  for (TracePeriod& period : periods) period.bytes_per_s *= factor;
  return create(name_, std::move(periods)).value();
}

}  // namespace kvpack
