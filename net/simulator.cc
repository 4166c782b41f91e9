// SPDX-License-Identifier: Apache-2.0
#include "net/simulator.h"

#include <algorithm>
#include <cmath>
#include <deque>

namespace kvpack {
namespace {

// A policy that has not finished by then never does.
constexpr double kPatienceDeadlines = 50;
constexpr double kPatienceS = 3600;

struct PendingBlock {
  uint32_t level = 0;
  uint32_t chunk = 0;
  uint64_t bytes = 0;
  double busy_s = 0;  // of the link, for these bytes
  bool from_idle = false;
  double usable_s = 0;
};

class Simulation {
 public:
  Simulation(const Scenario& scenario, const BandwidthTrace& trace, double start_s, Policy& policy)
      : scenario_(scenario),
        context_(scenario.context),
        trace_(trace),
        start_s_(start_s),
        policy_(policy),
        state_(context_.chunks()) {}

  Outcome run() {
    outcome_.computed_s.assign(context_.chunks(), 0);
    policy_.start(scenario_);
    open();
    const double patience_s = std::isfinite(scenario_.goal.deadline_s)
                                  ? kPatienceDeadlines * scenario_.goal.deadline_s + kPatienceS
                                  : kNoDeadline;
    while (true) {
      const PolicyMove move = policy_.decide(state_);
      for (const RangeStep& step : move.load) enqueue(step);
      if (move.compute) start_engine(*move.compute);
      const bool complete = state_.all_available();
      if (complete && (state_.now_s >= move.stop_s || (pending_.empty() && move.load.empty()))) break;
      const double next_s = next_event_s(move);
      if (!(next_s < patience_s)) return never();
      advance(next_s);
      if (state_.now_s >= move.stop_s) drop_refinements();
    }
    return finish();
  }

 private:
  // The archive's first bytes, before which nothing is known.
  void open() {
    const double latency_s = trace_.latency_s(start_s_);
    const double end_s = trace_.time_of(start_s_ + latency_s, static_cast<double>(context_.opening_bytes)) - start_s_;
    policy_.observe({context_.opening_bytes, end_s, true});
    state_.now_s = link_free_s_ = last_arrival_s_ = end_s;
    outcome_.bytes = context_.opening_bytes;
    outcome_.requests = 1;
  }

  void enqueue(const RangeStep& step) {
    ++outcome_.requests;
    for (uint32_t level = step.first_level; level < step.first_level + step.levels; ++level) {
      for (uint32_t chunk = step.first_chunk; chunk < step.first_chunk + step.chunks; ++chunk) {
        const uint64_t bytes = context_.bytes[level][chunk];
        const bool from_idle = state_.now_s > link_free_s_;
        const double begin_s = from_idle ? state_.now_s : link_free_s_;
        const double latency_s = from_idle ? trace_.latency_s(start_s_ + begin_s) : 0;
        link_free_s_ = trace_.time_of(start_s_ + begin_s + latency_s, static_cast<double>(bytes)) - start_s_;
        const double decode_s =
            scenario_.goal.decode_bytes_per_s > 0 ? static_cast<double>(bytes) / scenario_.goal.decode_bytes_per_s : 0;
        const double usable_s = std::max(decoder_free_s_, link_free_s_);
        decoder_free_s_ = usable_s + decode_s;
        pending_.push_back({level, chunk, bytes, link_free_s_ - begin_s, from_idle, usable_s});
        state_.requested[chunk] = std::max<uint8_t>(state_.requested[chunk], static_cast<uint8_t>(level + 1));
        state_.bytes_on_the_way += bytes;
      }
    }
  }

  void start_engine(uint32_t chunk) {
    if (state_.engine_running || scenario_.goal.prefill_tokens_per_s <= 0 || state_.computed[chunk] != 0) return;
    for (uint32_t before = 0; before < chunk; ++before) {
      if (!state_.available(before)) return;
    }
    state_.engine_running = true;
    engine_chunk_ = chunk;
    engine_begin_s_ = state_.now_s;
    engine_end_s_ = state_.now_s + context_.tokens[chunk] / scenario_.goal.prefill_tokens_per_s;
  }

  void drop_refinements() {
    for (const PendingBlock& block : pending_) {
      if (block.level > 0) state_.bytes_on_the_way -= block.bytes;
    }
    std::erase_if(pending_, [](const PendingBlock& block) { return block.level > 0; });
  }

  double next_event_s(const PolicyMove& move) const {
    double next_s = move.stop_s > state_.now_s ? move.stop_s : kNoDeadline;
    if (!pending_.empty()) next_s = std::min(next_s, pending_.front().usable_s);
    if (state_.engine_running) next_s = std::min(next_s, engine_end_s_);
    if (move.look_again_s > state_.now_s) next_s = std::min(next_s, move.look_again_s);
    return next_s;
  }

  void advance(double next_s) {
    state_.now_s = std::max(state_.now_s, next_s);
    if (state_.engine_running && engine_end_s_ <= state_.now_s) {
      state_.engine_running = false;
      state_.computed[engine_chunk_] = 1;
      outcome_.computed_s[engine_chunk_] = state_.now_s;
      outcome_.engine_s += engine_end_s_ - engine_begin_s_;
    }
    while (!pending_.empty() && pending_.front().usable_s <= state_.now_s) arrive();
    state_.engine_chunk_s = state_.engine_running ? state_.now_s - engine_begin_s_ : 0;
    state_.silent_s = pending_.empty() ? 0 : state_.now_s - last_arrival_s_;
  }

  void arrive() {
    const PendingBlock block = pending_.front();
    pending_.pop_front();
    if (state_.held[block.chunk] == block.level) ++state_.held[block.chunk];  // useless without the levels below it
    state_.bytes_on_the_way -= block.bytes;
    outcome_.bytes += block.bytes;
    outcome_.arrivals.push_back({block.level, block.chunk, block.usable_s});
    last_arrival_s_ = block.usable_s;
    policy_.observe({block.bytes, block.busy_s, block.from_idle});
  }

  Outcome finish() {
    for (uint32_t chunk = 0; chunk < context_.chunks(); ++chunk) {
      const bool computed = state_.computed[chunk] != 0;
      outcome_.actions.push_back(computed ? ChunkAction{ActionKind::kRecompute, 0, 1.0}
                                          : ChunkAction{ActionKind::kLoad, state_.held[chunk], 0.0});
      if (!computed) outcome_.distortion += context_.distortion_left(chunk, state_.held[chunk]);
    }
    if (state_.engine_running) outcome_.engine_s += state_.now_s - engine_begin_s_;
    const double loaded_s = outcome_.arrivals.empty() ? 0 : last_use_s() + decoding_tail_s(context_, scenario_.goal);
    outcome_.ttft_s = std::max(state_.now_s, loaded_s) + scenario_.goal.last_prefill_s;
    return std::move(outcome_);
  }

  // When the last block that is used had arrived; a policy that stops has waited until then.
  double last_use_s() const {
    double last_s = 0;
    for (const BlockArrival& block : outcome_.arrivals) {
      if (state_.computed[block.chunk] == 0) last_s = std::max(last_s, block.arrived_s);
    }
    return last_s;
  }

  Outcome never() {
    outcome_.ttft_s = outcome_.distortion = kNoDeadline;
    outcome_.actions.resize(context_.chunks());
    return std::move(outcome_);
  }

  const Scenario& scenario_;
  const ContextCosts& context_;
  const BandwidthTrace& trace_;
  const double start_s_;
  Policy& policy_;
  PlanState state_;
  Outcome outcome_;
  std::deque<PendingBlock> pending_;
  double link_free_s_ = 0;
  double decoder_free_s_ = 0;
  double last_arrival_s_ = 0;
  uint32_t engine_chunk_ = 0;
  double engine_begin_s_ = 0;
  double engine_end_s_ = 0;
};

}  // namespace

Outcome simulate(const Scenario& scenario, const BandwidthTrace& trace, double start_s, Policy& policy) {
  return Simulation(scenario, trace, start_s, policy).run();
}

Outcome simulate_blend(const Scenario& scenario, const BandwidthTrace& trace, double start_s, Policy& policy,
                       const BlendOption& blend) {
  const double deadline_s = scenario.goal.deadline_s;
  const double reserve_s = blend.seconds(scenario.context.total_tokens());
  Scenario reserved = scenario;
  reserved.goal.last_prefill_s += reserve_s;
  Outcome outcome = simulate(reserved, trace, start_s, policy);
  if (meets_deadline(outcome.ttft_s, deadline_s)) {
    outcome.ttft_s -= reserve_s;
  } else {
    outcome = simulate(scenario, trace, start_s, policy);
  }
  if (!std::isfinite(outcome.ttft_s)) return outcome;
  const double spent_s = choose_blend(scenario.context, blend, deadline_s - outcome.ttft_s, outcome.actions);
  outcome.ttft_s += spent_s;
  outcome.engine_s += spent_s;
  for (uint32_t chunk = 0; chunk < scenario.context.chunks(); ++chunk) {
    if (outcome.actions[chunk].kind != ActionKind::kBlend) continue;
    const double left = scenario.context.distortion_left(chunk, outcome.actions[chunk].levels);
    outcome.distortion -= (1 - blend.distortion_factor()) * left;
  }
  return outcome;
}

}  // namespace kvpack
