// SPDX-License-Identifier: Apache-2.0
// What to do with every chunk of a context so that the best of it is there at a deadline. Pure: numbers in, actions
// out; the caller owns clock, link and engine, and asks again whenever something has completed.
//
//   load      the base of everything first, in few ranges; then what removes most distortion per byte, as long as it
//             arrives before deadline - last prefill - decoding of the last chunk
//   recompute the front on the engine while the base comes from the back, where the base alone cannot be relied on
//   blend     recompute a share of a loaded chunk's tokens (CacheBlend), where the engine has time for it
//
// A level never has to be chosen in advance: whatever the link does, the best prefix of one order has arrived, so a
// wrong estimate costs little quality and no deadline. The estimate only decides how much to ask for at once, and when
// to start the engine.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include "net/context_costs.h"
#include "net/throughput.h"

namespace kvpack {

inline constexpr double kNoDeadline = std::numeric_limits<double>::infinity();

enum class RecomputeMode : uint8_t {
  kOff,
  kWhenNeeded,  // only as much as the deadline demands: the engine has other work
  kAlways,      // whatever it can: the engine is idle, and what it computes is exact
};

// Recompute `ratio` of a chunk's tokens, which then have no distortion of their own. `tokens_per_s` is what blending
// was measured at, selection and query included (`kvpack blend --json`): tokens chosen per second.
struct BlendOption {
  double ratio = 0.15;
  double tokens_per_s = 0;

  double seconds(double tokens) const { return ratio * tokens / tokens_per_s; }
  double distortion_factor() const { return 1 - ratio; }
};

// Times count from the start of the fetch.
struct PlanGoal {
  double deadline_s = kNoDeadline;  // first token
  double last_prefill_s = 0;        // of the prompt's new part, after the context is there
  double prefill_tokens_per_s = 0;  // 0: no engine
  double decode_bytes_per_s = 0;    // of archive bytes; 0: decoding takes no time
  RecomputeMode recompute = RecomputeMode::kWhenNeeded;
  std::optional<BlendOption> blend;
};

// A contiguous byte range of the archive: `levels` levels of one chunk, or of all chunks, or one level of any run.
struct RangeStep {
  uint32_t first_level = 0;
  uint32_t levels = 1;
  uint32_t first_chunk = 0;
  uint32_t chunks = 1;
  bool operator==(const RangeStep&) const = default;
};
uint64_t step_bytes(const ContextCosts& costs, const RangeStep& step);

struct PlanState {
  double now_s = 0;
  std::vector<uint8_t> held;            // [chunk] levels that have arrived, and can be used
  std::vector<uint8_t> requested;       // [chunk] levels that have arrived or are on their way
  std::vector<uint8_t> computed;        // [chunk] 1: the engine has recomputed it
  uint64_t bytes_on_the_way = 0;        // of blocks
  uint64_t sections_missing_bytes = 0;  // on their way; nothing can be decoded without them
  bool engine_running = false;          // on the first chunk that is not computed
  double engine_chunk_s = 0;            // for so long already
  double silent_s = 0;                  // the link is busy, and nothing came for so long

  explicit PlanState(uint32_t chunks = 0) : held(chunks), requested(chunks), computed(chunks) {}
  bool available(uint32_t chunk) const { return held[chunk] > 0 || computed[chunk] != 0; }
  bool all_available() const;
  uint32_t computed_front() const;  // chunks recomputed from the front on, without a gap
};

enum class ActionKind : uint8_t { kLoad, kRecompute, kBlend };
std::string_view action_name(ActionKind kind);  // "load", "recompute", "blend"

struct ChunkAction {
  ActionKind kind = ActionKind::kLoad;
  uint32_t levels = 0;         // loaded: 1 is the base alone; 0 where it is recomputed
  double recompute_ratio = 0;  // 1: recompute, between: blend
  bool operator==(const ChunkAction&) const = default;
};

// Loaded chunks become blended ones, by distortion removed per second, as far as `seconds` go. Returns the seconds
// used.
double choose_blend(const ContextCosts& costs, const BlendOption& blend, double seconds,
                    std::vector<ChunkAction>& actions);

struct Plan {
  std::vector<ChunkAction> actions;   // [chunk] as it will end if the link behaves as estimated
  std::vector<RangeStep> next;        // ask for these now, in this order
  bool run_engine = false;            // on the first chunk that is not computed
  double stop_s = kNoDeadline;        // what arrives later is of no use, once every chunk is available
  double look_again_s = kNoDeadline;  // plan again then, if nothing completed before
  double expected_ready_s = 0;        // when all of `actions` is done
  double expected_distortion = 0;
  bool base_is_safe = false;  // the base arrives in time even at a low quantile
};

// Whether the next chunk is sooner computed than loaded. An engine cannot be stopped in the middle of a chunk, and
// gives nothing away meanwhile: what it is still at when the link has brought the rest only delays the end.
bool engine_chunk_pays(const ContextCosts& costs, const PlanGoal& goal, const ThroughputEstimate& link,
                       const PlanState& state);

Plan make_plan(const ContextCosts& costs, const PlanGoal& goal, const ThroughputEstimate& link, const PlanState& state);

// From the last arrival until it is decoded: the largest chunk, at all its levels.
double decoding_tail_s(const ContextCosts& costs, const PlanGoal& goal);
// Loading has to end then: deadline, less the last prefill and the decoding tail.
double loading_deadline_s(const ContextCosts& costs, const PlanGoal& goal);

}  // namespace kvpack
