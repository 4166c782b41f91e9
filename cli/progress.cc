// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <fmt/format.h>

#include <cstdio>

#include "cli/printable.h"

namespace kvpack::cli {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kEstimateAfterSeconds = 0.5;  // before that, a time left is a guess
constexpr const char* kEraseLine = "\r\033[K";

}  // namespace

Progress::Progress(const Console& console, std::string verb, uint64_t work_bytes)
    : shown_(console.shows_progress()), verb_(std::move(verb)), work_bytes_(work_bytes) {}

ProgressFn Progress::callback() {
  if (!shown_) return {};
  return [this](uint64_t done, uint64_t total, const std::string& phase) { update(done, total, phase); };
}

void Progress::clear() {
  const std::lock_guard lock(mutex_);
  if (!drawn_) return;
  std::fputs(kEraseLine, stderr);
  std::fflush(stderr);
  drawn_ = false;
}

void Progress::update(uint64_t done, uint64_t total, const std::string& phase) {
  const std::lock_guard lock(mutex_);
  if (phase != phase_) {
    phase_ = phase;
    phase_time_.lap();
  }
  // The first line waits its turn too: short work then shows none.
  if (total == 0 || since_drawn_.seconds() < kRedrawSeconds) return;
  since_drawn_.lap();
  std::fputs((kEraseLine + line(std::min(done, total), total)).c_str(), stderr);
  std::fflush(stderr);
  drawn_ = true;
}

std::string Progress::line(uint64_t done, uint64_t total) const {
  const double fraction = static_cast<double>(done) / static_cast<double>(total);
  const double elapsed = phase_time_.seconds();
  std::string text = fmt::format("{}: {:3.0f} %", printable(phase_.empty() ? verb_ : phase_), 100 * fraction);
  if (elapsed < kEstimateAfterSeconds || done == 0) return text;
  if (work_bytes_ > 0) text += "  " + short_rate(static_cast<double>(work_bytes_) * fraction, elapsed);
  return text + fmt::format("  {} left", short_duration(elapsed * (1 - fraction) / fraction));
}

}  // namespace kvpack::cli
