// SPDX-License-Identifier: Apache-2.0
// The benchmark's scenarios: contexts x engine speeds x deadlines from scenarios.json, links from trace files and from
// generators.
#pragma once

#include <string>
#include <vector>

#include "net/simulator.h"

namespace kvpack {

struct BenchContext {
  std::string name;
  ContextCosts costs;
};

struct ScenarioList {
  std::vector<BenchContext> contexts;
  std::vector<double> engines_tokens_per_s;  // 0: none
  std::vector<double> deadlines_s;
  double fits = 0.55;  // what the link's mean carries until the deadline, as a share of all levels
  uint32_t windows_per_trace = 4;
  double last_prefill_s = 0;
  double decode_bytes_per_s = 0;
};

Result<ScenarioList> read_scenarios(const std::string& path);

// A link whose mean carries `bytes` in `seconds`, and where in it the fetches start.
struct BenchLink {
  BandwidthTrace trace;
  std::vector<double> starts_s;
};
// Every file *.json and *.txt below `folder`, in order of name. Errors: io, invalid_argument (a file that is no trace).
Result<std::vector<BandwidthTrace>> read_traces(const std::string& folder);
BenchLink scaled_link(const BandwidthTrace& trace, double bytes, double seconds, uint32_t windows);
// Step down and up, ramp, outages, token bucket, loss, for a deadline of `seconds`.
std::vector<BenchLink> generated_links(double bytes, double seconds, uint32_t windows);

}  // namespace kvpack
