// SPDX-License-Identifier: Apache-2.0
#include "net/planner.h"

#include <algorithm>
#include <cmath>

#include "net/refinement_order.h"

namespace kvpack {
namespace {

constexpr double kLowQuantile = 2;        // standard errors
constexpr double kEngineMargin = 0.02;    // engines are now and then slower than they say
constexpr double kSlowdown = 3;           // an engine rests only if the link may become so much slower
constexpr double kNoReturnMargin = 0.3;   // where nothing else would save the deadline
constexpr uint32_t kBaseRanges = 24;      // of a base that comes from the back
constexpr double kBatchShare = 1.0 / 8;   // of what still fits: ask for so much at once
constexpr double kLookAgainShare = 0.02;  // of the deadline
constexpr double kSilentLatencies = 4;

// Everything that the parts of a plan share.
struct Planning {
  const ContextCosts& costs;
  const PlanGoal& goal;
  const ThroughputEstimate& link;
  const PlanState& state;
  double stop_s = kNoDeadline;
  uint32_t front = 0;  // chunks recomputed

  double seconds_per_byte() const {
    const double decode = goal.decode_bytes_per_s > 0 ? 1 / goal.decode_bytes_per_s : 0;
    return std::max(link.seconds_per_byte, decode);
  }
  double time_left_s() const { return std::max(0.0, stop_s - state.now_s); }
  bool has_engine() const {
    return goal.prefill_tokens_per_s > 0 && goal.recompute != RecomputeMode::kOff && costs.recomputable;
  }
  double engine_deadline_s() const { return goal.deadline_s - goal.last_prefill_s; }
  // From now until the chunks before `end` are recomputed.
  double engine_seconds(uint32_t end, double margin = kEngineMargin) const {
    double tokens = 0;
    for (uint32_t chunk = front; chunk < end; ++chunk) tokens += costs.tokens[chunk];
    const double done = state.engine_running ? state.engine_chunk_s : 0;
    return std::max(0.0, tokens / goal.prefill_tokens_per_s - done) * (1 + margin);
  }
  // How many chunks the engine can have recomputed by then.
  uint32_t reachable_front(double by_s, double margin) const {
    uint32_t end = front;
    while (end < costs.chunks() && state.now_s + engine_seconds(end + 1, margin) <= by_s) ++end;
    return end;
  }
};

// Sections included: without them no base is of use.
uint64_t base_bytes_missing(const Planning& p, uint32_t from_chunk) {
  uint64_t bytes = p.state.sections_missing_bytes;
  for (uint32_t chunk = from_chunk; chunk < p.costs.chunks(); ++chunk) {
    if (!p.state.available(chunk)) bytes += p.costs.bytes[0][chunk];
  }
  return bytes;
}

// Past the last chunk that is neither loaded nor recomputed.
uint32_t end_of_missing(const Planning& p) {
  uint32_t end = p.costs.chunks();
  while (end > p.front && p.state.available(end - 1)) --end;
  return end;
}

// The link should have delivered something by now.
bool is_silent(const Planning& p) {
  const double quiet_s = p.link.latency_s + 3 * p.link.latency_error_s + 65536 * p.link.seconds_per_byte;
  return p.state.silent_s > kSilentLatencies * quiet_s;
}

// Seconds for `bytes` more, at a low quantile.
double load_late_s(const Planning& p, uint64_t bytes) {
  const double decode_s = p.seconds_per_byte() - p.link.seconds_per_byte;  // where decoding is the slower one
  const Forecast forecast = p.link.predict(bytes, p.state.bytes_on_the_way == 0);
  return forecast.late_s(kLowQuantile) + static_cast<double>(bytes) * decode_s;
}

bool base_is_safe(const Planning& p) {
  const uint64_t missing = base_bytes_missing(p, p.front);
  if (missing == 0) return true;
  if (!p.link.known() || is_silent(p)) return false;
  return p.state.now_s + load_late_s(p, missing) <= p.stop_s;
}

// Whether the engine may rest for another `wait_s`: even if the link then slows down to a fraction of what it seems to
// be, what the engine cannot recompute any more still arrives.
bool can_wait(const Planning& p, uint32_t end, double wait_s) {
  const double idle_s = p.state.engine_running ? 0 : wait_s;
  const uint32_t front = std::min(end, p.reachable_front(p.engine_deadline_s() - idle_s, kNoReturnMargin));
  const uint64_t rest = base_bytes_missing(p, front);
  if (rest == 0) return true;
  if (!p.link.known() || is_silent(p)) return false;
  return p.state.now_s + kSlowdown * load_late_s(p, rest) <= p.stop_s;
}

// Decides on the engine and returns how many chunks of the front it is expected to recompute.
uint32_t plan_engine(const Planning& p, Plan& plan) {
  if (!p.has_engine() || !std::isfinite(p.goal.deadline_s)) return p.front;
  if (p.goal.recompute == RecomputeMode::kAlways) {
    // Without a margin: a chunk that is not done in time is lost only to the engine.
    plan.run_engine = p.front < p.reachable_front(p.engine_deadline_s(), 0);
    return p.reachable_front(p.engine_deadline_s(), kEngineMargin);
  }
  const uint32_t end = end_of_missing(p);
  if (end == p.front) return p.front;
  plan.run_engine = !can_wait(p, end, kLookAgainShare * p.goal.deadline_s);
  if (plan.base_is_safe) return p.front;
  // Where engine and link will meet.
  uint32_t meeting = p.front;
  while (meeting < end &&
         p.state.now_s + static_cast<double>(base_bytes_missing(p, meeting)) * p.seconds_per_byte() > p.stop_s) {
    ++meeting;
  }
  return std::min(meeting, std::max(p.front, p.reachable_front(p.engine_deadline_s(), 0)));
}

// Runs of chunks in [begin, end) whose base has not been asked for.
std::vector<RangeStep> missing_base_runs(const Planning& p, uint32_t begin, uint32_t end) {
  std::vector<RangeStep> runs;
  for (uint32_t chunk = begin; chunk < end; ++chunk) {
    if (p.state.requested[chunk] > 0 || p.state.computed[chunk] != 0) continue;
    if (!runs.empty() && runs.back().first_chunk + runs.back().chunks == chunk) {
      ++runs.back().chunks;
    } else {
      runs.push_back({0, 1, chunk, 1});
    }
  }
  return runs;
}

// The base: in one range per gap, or, while the engine may have to step in, from the back in parts. False: there is
// more to ask for, later.
bool plan_base(const Planning& p, uint32_t begin, Plan& plan) {
  std::vector<RangeStep> runs = missing_base_runs(p, begin, p.costs.chunks());
  if (runs.empty()) return true;
  // From the back even where the base looks safe: what the engine may still have to recompute is the front.
  const bool from_the_back = p.has_engine() && std::isfinite(p.stop_s);
  if (!from_the_back) {
    plan.next = std::move(runs);
    return true;
  }
  const uint64_t part_bytes = std::max<uint64_t>(1, p.costs.level_bytes(0) / kBaseRanges);
  uint64_t asked = p.state.bytes_on_the_way;
  for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
    while (run->chunks > 0 && asked < 2 * part_bytes) {
      RangeStep part{0, 1, run->first_chunk + run->chunks, 0};
      uint64_t bytes = 0;
      while (run->chunks > 0 && bytes < part_bytes) {
        bytes += p.costs.bytes[0][--part.first_chunk];
        ++part.chunks;
        --run->chunks;
      }
      plan.next.push_back(part);
      asked += bytes;
    }
    if (run->chunks > 0) return false;
  }
  return true;
}

// What of `order` fits into `budget` bytes, skipping what does not; a chunk's level only after the one below it.
std::vector<Refinement> fitting(const std::vector<Refinement>& order, double budget, std::vector<uint8_t>& levels) {
  std::vector<Refinement> chosen;
  for (const Refinement& refinement : order) {
    if (refinement.level != levels[refinement.chunk] || static_cast<double>(refinement.bytes) > budget) continue;
    budget -= static_cast<double>(refinement.bytes);
    ++levels[refinement.chunk];
    chosen.push_back(refinement);
  }
  return chosen;
}

bool follows(const Planning& p, const Refinement& a, const Refinement& b) {
  const bool same_level = b.level == a.level && b.chunk == a.chunk + 1;
  return same_level || (b.level == a.level + 1 && b.chunk == 0 && a.chunk + 1 == p.costs.chunks());
}

// Of what was chosen, the best part, big enough to keep the link busy; and what follows it in the file, which costs no
// request and can be dropped at any time.
std::vector<RangeStep> first_batch(const Planning& p, const std::vector<Refinement>& chosen, double capacity) {
  const double in_flight = 2 * p.link.latency_s / std::max(p.seconds_per_byte(), 1e-15);
  const double batch = std::max(capacity * kBatchShare, in_flight);
  if (static_cast<double>(p.state.bytes_on_the_way) > std::max(batch / 4, in_flight)) return {};
  std::vector<Refinement> now;
  double bytes = 0;
  for (const Refinement& refinement : chosen) {
    if (bytes >= batch && !follows(p, now.back(), refinement)) break;
    bytes += static_cast<double>(refinement.bytes);
    now.push_back(refinement);
  }
  return coalesce(std::move(now));
}

// A base that ends the level goes on, in the same request, with what is best after it and lies behind it: a connection
// that is warm is worth more than a choice that nearly always ends the same. Taken in order, so whatever has come when
// time is up is the best part, however wrong the estimate was.
void extend_base(const Planning& p, const std::vector<Refinement>& order, Plan& plan) {
  const RangeStep& base = plan.next.back();
  if (p.has_engine() || !std::isfinite(p.stop_s) || base.first_level != 0) return;
  Refinement last{0, base.first_chunk + base.chunks - 1, 0, 0};
  std::vector<Refinement> more;
  for (const Refinement& refinement : order) {
    if (!follows(p, last, refinement)) break;
    more.push_back(last = refinement);
  }
  for (const RangeStep& step : coalesce(std::move(more))) plan.next.push_back(step);
}

// Refinements of the chunks from `begin` on, once the base is on its way; `levels` becomes what every chunk will have.
void plan_refinements(const Planning& p, uint32_t begin, bool base_asked_for, std::vector<uint8_t>& levels,
                      Plan& plan) {
  const double base_on_the_way = static_cast<double>(base_bytes_missing(p, begin));
  const double waiting = std::max(static_cast<double>(p.state.bytes_on_the_way), base_on_the_way);
  const double latency_s = p.state.bytes_on_the_way == 0 ? p.link.latency_s : 0;
  const double capacity = (p.time_left_s() - latency_s) / std::max(p.seconds_per_byte(), 1e-15) - waiting;
  const std::vector<Refinement> order = refinement_order(p.costs, levels, begin);
  std::vector<Refinement> chosen = fitting(order, capacity, levels);
  if (!base_asked_for || p.time_left_s() <= 0 || order.empty()) return;
  if (!plan.next.empty()) return extend_base(p, order, plan);
  if (chosen.empty() && p.state.bytes_on_the_way == 0) {
    // By the estimate nothing fits any more. An attempt costs nothing but bytes.
    chosen.push_back(*std::min_element(order.begin(), order.end(), [&](const Refinement& a, const Refinement& b) {
      const bool ready_a = a.level == levels[a.chunk], ready_b = b.level == levels[b.chunk];
      return ready_a != ready_b ? ready_a : a.bytes < b.bytes;
    }));
  }
  plan.next = first_batch(p, chosen, capacity);
}

// CacheBlend in the time that recomputing leaves.
void plan_blend(const Planning& p, uint32_t front, Plan& plan) {
  if (!p.goal.blend || !p.has_engine()) return;
  const double engine_s = p.engine_deadline_s() - p.state.now_s - p.engine_seconds(front);
  choose_blend(p.costs, *p.goal.blend, engine_s / (1 + kEngineMargin), plan.actions);
}

double expected_distortion(const Planning& p, const Plan& plan) {
  double total = 0;
  for (uint32_t chunk = 0; chunk < p.costs.chunks(); ++chunk) {
    const ChunkAction& action = plan.actions[chunk];
    if (action.kind == ActionKind::kRecompute) continue;
    const double factor = action.kind == ActionKind::kBlend ? p.goal.blend->distortion_factor() : 1;
    total += factor * p.costs.distortion_left(chunk, action.levels);
  }
  return total;
}

void set_actions(const Planning& p, uint32_t front, const std::vector<uint8_t>& levels, Plan& plan) {
  for (uint32_t chunk = 0; chunk < p.costs.chunks(); ++chunk) {
    const bool recompute = p.state.computed[chunk] != 0 || (chunk < front && p.state.held[chunk] == 0) ||
                           (chunk < front && p.goal.recompute == RecomputeMode::kAlways);
    plan.actions.push_back(recompute ? ChunkAction{ActionKind::kRecompute, 0, 1.0}
                                     : ChunkAction{ActionKind::kLoad, levels[chunk], 0.0});
  }
}

double expected_ready_s(const Planning& p, uint32_t front, const Plan& plan) {
  auto bytes = static_cast<double>(p.state.sections_missing_bytes);
  for (uint32_t chunk = 0; chunk < p.costs.chunks(); ++chunk) {
    const uint32_t levels = plan.actions[chunk].levels;
    if (levels <= p.state.held[chunk]) continue;
    bytes += static_cast<double>(p.costs.chunk_bytes(chunk, levels) - p.costs.chunk_bytes(chunk, p.state.held[chunk]));
  }
  const double idle_s = p.state.bytes_on_the_way == 0 && bytes > 0 ? p.link.latency_s : 0;
  const double loaded_s = p.state.now_s + idle_s + bytes * p.seconds_per_byte();
  return p.has_engine() ? std::max(loaded_s, p.state.now_s + p.engine_seconds(front)) : loaded_s;
}

}  // namespace

double choose_blend(const ContextCosts& costs, const BlendOption& blend, double seconds,
                    std::vector<ChunkAction>& actions) {
  std::vector<uint32_t> order;
  for (uint32_t chunk = 0; chunk < actions.size(); ++chunk) {
    if (actions[chunk].kind == ActionKind::kLoad && actions[chunk].levels > 0) order.push_back(chunk);
  }
  const auto gain = [&](uint32_t chunk) {
    return costs.distortion_left(chunk, actions[chunk].levels) / costs.tokens[chunk];
  };
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return gain(a) > gain(b); });
  double used_s = 0;
  for (const uint32_t chunk : order) {
    const double cost_s = blend.seconds(costs.tokens[chunk]);
    if (used_s + cost_s > seconds) continue;
    used_s += cost_s;
    actions[chunk].kind = ActionKind::kBlend;
    actions[chunk].recompute_ratio = blend.ratio;
  }
  return used_s;
}

uint64_t step_bytes(const ContextCosts& costs, const RangeStep& step) {
  uint64_t bytes = 0;
  for (uint32_t level = step.first_level; level < step.first_level + step.levels; ++level) {
    for (uint32_t chunk = step.first_chunk; chunk < step.first_chunk + step.chunks; ++chunk) {
      bytes += costs.bytes[level][chunk];
    }
  }
  return bytes;
}

bool PlanState::all_available() const {
  for (uint32_t chunk = 0; chunk < held.size(); ++chunk) {
    if (!available(chunk)) return false;
  }
  return true;
}

uint32_t PlanState::computed_front() const {
  uint32_t front = 0;
  while (front < computed.size() && computed[front] != 0) ++front;
  return front;
}

std::string_view action_name(ActionKind kind) {
  return kind == ActionKind::kLoad ? "load" : kind == ActionKind::kRecompute ? "recompute" : "blend";
}

double decoding_tail_s(const ContextCosts& costs, const PlanGoal& goal) {
  if (goal.decode_bytes_per_s <= 0) return 0;
  uint64_t largest = 0;
  for (uint32_t chunk = 0; chunk < costs.chunks(); ++chunk) {
    largest = std::max(largest, costs.chunk_bytes(chunk, costs.levels()));
  }
  return static_cast<double>(largest) / goal.decode_bytes_per_s;
}

double loading_deadline_s(const ContextCosts& costs, const PlanGoal& goal) {
  return goal.deadline_s - goal.last_prefill_s - decoding_tail_s(costs, goal);
}

bool engine_chunk_pays(const ContextCosts& costs, const PlanGoal& goal, const ThroughputEstimate& link,
                       const PlanState& state) {
  const Planning p{costs, goal, link, state, loading_deadline_s(costs, goal), state.computed_front()};
  // Where the engine is idle anyway, it is the deadline that decides.
  if (goal.recompute == RecomputeMode::kAlways)
    return state.now_s + p.engine_seconds(p.front + 1) <= p.engine_deadline_s();
  uint32_t missing = p.front;  // the engine gets there over chunks that have been loaded
  while (missing < costs.chunks() && state.available(missing)) ++missing;
  if (missing == costs.chunks() || !link.known()) return true;
  const double computed_s = p.engine_seconds(missing + 1);
  const double loaded_s = static_cast<double>(base_bytes_missing(p, missing)) * p.seconds_per_byte();
  const double rest_s = static_cast<double>(base_bytes_missing(p, missing + 1)) * p.seconds_per_byte();
  return std::max(computed_s, rest_s) < loaded_s;
}

Plan make_plan(const ContextCosts& costs, const PlanGoal& goal, const ThroughputEstimate& link,
               const PlanState& state) {
  Planning p{costs, goal, link, state, loading_deadline_s(costs, goal), state.computed_front()};
  Plan plan;
  plan.stop_s = p.stop_s;
  plan.base_is_safe = base_is_safe(p);
  const uint32_t front = plan_engine(p, plan);
  // An engine that is slower than it said must not leave a gap: the base of what it may not reach comes too.
  const uint32_t base_begin =
      p.goal.recompute == RecomputeMode::kAlways || plan.run_engine ? p.front + (front - p.front) * 9 / 10 : p.front;
  const bool base_asked_for = plan_base(p, base_begin, plan);
  std::vector<uint8_t> levels = state.requested;
  for (uint32_t chunk = front; chunk < costs.chunks(); ++chunk) levels[chunk] = std::max<uint8_t>(levels[chunk], 1);
  plan_refinements(p, front, base_asked_for, levels, plan);
  set_actions(p, front, levels, plan);
  plan_blend(p, front, plan);
  plan.expected_ready_s = expected_ready_s(p, front, plan);
  plan.expected_distortion = expected_distortion(p, plan);
  if (std::isfinite(goal.deadline_s)) {
    plan.look_again_s = std::min(plan.look_again_s, state.now_s + kLookAgainShare * goal.deadline_s);
  }
  return plan;
}

}  // namespace kvpack
