// SPDX-License-Identifier: Apache-2.0
// One line on a terminal: phase, percentage, rate, time left. Nothing at all anywhere else.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "cli/console.h"
#include "cli/quantities.h"
#include "codec/archive_codec.h"

namespace kvpack::cli {

class Progress {
 public:
  // `verb` names a phase that the codec leaves unnamed. `work_bytes` (0: unknown) turns fractions into MB/s.
  Progress(const Console& console, std::string verb, uint64_t work_bytes = 0);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // For EncodeOptions and DecodeOptions; empty when nothing is to be shown. May be called from several threads.
  ProgressFn callback();
  // Removes the line.
  void clear();

 private:
  void update(uint64_t done, uint64_t total, const std::string& phase);
  std::string line(uint64_t done, uint64_t total) const;

  const bool shown_;
  const std::string verb_;
  const uint64_t work_bytes_;
  std::mutex mutex_;
  std::string phase_;
  Stopwatch phase_time_;
  Stopwatch since_drawn_;
  bool drawn_ = false;
};

}  // namespace kvpack::cli
