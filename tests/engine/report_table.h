// SPDX-License-Identifier: Apache-2.0
// One line per way to keep the same cache, printed for people, for the README, or for machines.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "net/engine/metrics.h"

namespace kvpack::engine {

struct ReportRow {
  std::string name;             // "medium", "q8_0", "zstd -19", ...
  uint64_t bytes = 0;           // everything that is kept
  double ratio = 0;             // the state file's bytes / bytes
  double bits_per_value = 0;    // 8 x bytes / values
  double relative_error = 0;    // relative L2 error of the values
  PredictionDistance distance;  // from the warm cache
  uint32_t cached_tokens = 0;   // that the engine did not compute again
  uint32_t greedy_equal = 0;    // greedy tokens before the first that differs
  double encode_ms = -1;        // wall time of the program; negative: none was run
  double decode_ms = -1;
};

struct ReportContext {
  std::string model;  // file name
  std::string text;   // file name
  uint32_t prefix_tokens = 0;
  uint32_t continuation_tokens = 0;
  uint32_t greedy_tokens = 0;
  uint64_t state_bytes = 0;
  uint64_t values = 0;
  double reference_nll = 0;
};

enum class ReportStyle { kText, kMarkdown, kJson };

std::string print_report(const ReportContext& context, const std::vector<ReportRow>& rows, ReportStyle style);

}  // namespace kvpack::engine
