// SPDX-License-Identifier: Apache-2.0
// A fetch against a known bandwidth trace, event by event: what a policy would have done, and when the first token
// would have come. No network, no clock.
//
// Model: the link carries what was asked for in order; a request pays the trace's latency only where the link was idle
// before (policies pipeline: the next request is on its way before the last answer ends). Decoding is a second station
// behind the link, at decode_bytes_per_s, and ends decoding_tail_s() after the last arrival. The engine computes one
// chunk at a time, each after all before it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/planner.h"
#include "net/trace.h"

namespace kvpack {

struct Scenario {
  ContextCosts context;
  PlanGoal goal;
};

struct PolicyMove {
  std::vector<RangeStep> load;        // ask for these now
  std::optional<uint32_t> compute;    // this chunk, if the engine is idle and all before it are available
  double look_again_s = kNoDeadline;  // ask the policy again then
  double stop_s = kNoDeadline;        // drop what is on its way then, if every chunk is available
};

// One fetch's decisions. start() once, then decide() after every event.
class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::string name() const = 0;
  virtual void start(const Scenario& scenario) = 0;
  // The link was busy for so long with so many bytes.
  virtual void observe(const TransferSample&) {}
  virtual PolicyMove decide(const PlanState& state) = 0;
};

struct BlockArrival {
  uint32_t level = 0;
  uint32_t chunk = 0;
  double arrived_s = 0;  // and the decoder has begun with it
};

struct Outcome {
  double ttft_s = 0;  // infinite if the policy never finishes
  double distortion = 0;
  std::vector<ChunkAction> actions;  // [chunk]
  std::vector<BlockArrival> arrivals;
  std::vector<double> computed_s;  // [chunk] when the engine was done with it; 0: loaded
  uint64_t bytes = 0;              // arrived, the opening included
  uint32_t requests = 0;           // ranges, the opening included
  double engine_s = 0;
};

// Starts at `start_s` of the trace.
Outcome simulate(const Scenario& scenario, const BandwidthTrace& trace, double start_s, Policy& policy);

// A fetch, and then CacheBlend of what it loaded (as `kvpack blend` works: everything is there before it begins).
// Loading leaves the time for it, unless the deadline would be missed for that; then only chunks are blended that still
// fit.
Outcome simulate_blend(const Scenario& scenario, const BandwidthTrace& trace, double start_s, Policy& policy,
                       const BlendOption& blend);

// A TTFT within the deadline; a millisecond is not worth an argument.
inline bool meets_deadline(double ttft_s, double deadline_s) { return ttft_s <= deadline_s + 1e-3; }

}  // namespace kvpack
