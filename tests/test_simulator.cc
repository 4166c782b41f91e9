// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <map>

#include "net/oracle.h"
#include "net/policies.h"
#include "net/trace_generators.h"
#include "tests/planner_samples.h"

using namespace kvpack;

namespace {

Scenario sample_scenario(uint32_t chunks, double deadline_s, double prefill_tokens_per_s = 0) {
  Scenario scenario{sample_costs(chunks), {}};
  scenario.goal.deadline_s = deadline_s;
  scenario.goal.prefill_tokens_per_s = prefill_tokens_per_s;
  scenario.goal.decode_bytes_per_s = 1e8;
  return scenario;
}

std::vector<BandwidthTrace> sample_links() {
  return {BandwidthTrace::constant(1e6, 0.02), step_trace(2e6, 1e5, 0.7, 0.02),
          step_trace(3e5, 2e6, 0.9, 0.05),     ramp_trace(2e6, 2e5, 1.5, 0.02),
          outage_trace(1.2e6, 0.4, 0.8, 0.05), token_bucket_trace(4e6, 1e6, 2e5, 0.02),
          lossy_trace(1.5e6, 2, 0.4, 0.03, 1), lossy_trace(1e6, 5, 0.2, 0.03, 2)};
}

// Loads the whole base, then stops.
class BaseOnly : public Policy {
 public:
  std::string name() const override { return "base"; }
  void start(const Scenario& scenario) override { chunks_ = scenario.context.chunks(); }
  PolicyMove decide(const PlanState&) override {
    PolicyMove move;
    if (chunks_ > 0) move.load = {{0, 1, 0, chunks_}};
    chunks_ = 0;
    return move;
  }

 private:
  uint32_t chunks_ = 0;
};

}  // namespace

TEST_CASE("simulator: on a constant link times are what arithmetic says") {
  Scenario scenario = sample_scenario(10, 5);
  scenario.goal.decode_bytes_per_s = 0;
  scenario.goal.last_prefill_s = 0.25;
  BaseOnly policy;
  const Outcome outcome = simulate(scenario, BandwidthTrace::constant(1e5, 0.1), 0, policy);
  const auto bytes = static_cast<double>(scenario.context.level_bytes(0) + scenario.context.opening_bytes);
  // The base is asked for the moment the opening has come, so there is one latency.
  CHECK(outcome.ttft_s == doctest::Approx(0.1 + bytes / 1e5 + 0.25));
  CHECK(outcome.bytes == scenario.context.level_bytes(0) + scenario.context.opening_bytes);
  CHECK(outcome.requests == 2);
  CHECK(outcome.arrivals.size() == 10);
}

TEST_CASE("simulator: a slow decoder is what takes the time") {
  Scenario scenario = sample_scenario(10, 50);
  scenario.goal.decode_bytes_per_s = 1e4;
  BaseOnly policy;
  const Outcome outcome = simulate(scenario, BandwidthTrace::constant(1e7, 0), 0, policy);
  const double decode_s = static_cast<double>(scenario.context.level_bytes(0)) / 1e4;
  CHECK(outcome.ttft_s > decode_s);
  CHECK(outcome.ttft_s < decode_s + decoding_tail_s(scenario.context, scenario.goal) + 0.01);
}

TEST_CASE("simulator: no policy gets more bytes than the link carries, and every loaded level was carried") {
  for (const BandwidthTrace& link : sample_links()) {
    for (const double engine : {0.0, 3000.0}) {
      const Scenario scenario = sample_scenario(24, 2, engine);
      for (const auto& policy : all_policies()) {
        CAPTURE(link.name());
        CAPTURE(policy->name());
        const Outcome outcome = simulate(scenario, link, 0, *policy);
        REQUIRE(outcome.ttft_s < kNoDeadline);
        const double link_s = outcome.ttft_s - scenario.goal.last_prefill_s;
        CHECK(static_cast<double>(outcome.bytes) <= link.bytes_between(link.latency_s(0), link_s) * (1 + 1e-9) + 1);
        uint64_t arrived = scenario.context.opening_bytes, used = arrived;
        std::map<std::pair<uint32_t, uint32_t>, int> blocks;
        for (const BlockArrival& block : outcome.arrivals) {
          arrived += scenario.context.bytes[block.level][block.chunk];
          CHECK(++blocks[{block.level, block.chunk}] == 1);  // nothing twice
        }
        CHECK(arrived == outcome.bytes);
        for (uint32_t chunk = 0; chunk < 24; ++chunk) {
          const ChunkAction& action = outcome.actions[chunk];
          if (action.kind == ActionKind::kRecompute) CHECK(outcome.computed_s[chunk] > 0);
          if (action.kind == ActionKind::kLoad) CHECK(action.levels >= 1);
          for (uint32_t level = 0; level < action.levels; ++level) {
            CHECK(blocks.count({level, chunk}) == 1);
            used += scenario.context.bytes[level][chunk];
          }
        }
        CHECK(used <= arrived);
        CHECK(outcome.engine_s <= outcome.ttft_s);
      }
    }
  }
}

TEST_CASE("oracle: never worse than any policy that recomputes a front") {
  int compared = 0;
  for (const BandwidthTrace& link : sample_links()) {
    for (const double engine : {0.0, 1000.0, 3000.0}) {
      for (const double deadline_s : {0.8, 1.5, 3.0}) {
        const Scenario scenario = sample_scenario(24, deadline_s, engine);
        const Oracle::Answer best = Oracle(scenario).solve(link, 0);
        for (const auto& policy : all_policies()) {
          CAPTURE(link.name());
          CAPTURE(policy->name());
          CAPTURE(engine);
          CAPTURE(deadline_s);
          const Outcome outcome = simulate(scenario, link, 0, *policy);
          if (!meets_deadline(outcome.ttft_s, deadline_s)) continue;
          REQUIRE(best.meets_deadline);
          if (policy->name() == "SparKV") continue;
          CHECK(best.distortion <= outcome.distortion * (1 + 1e-9));
          ++compared;
        }
      }
    }
  }
  CHECK(compared > 150);
}

TEST_CASE("oracle: the programme finds what trying everything finds") {
  const ContextCosts costs = sample_costs(7, 0.5, 3);
  const Scenario scenario{costs, {}};
  const Oracle oracle(scenario, 1 << 20);
  for (double budget = 100e3; budget < 800e3; budget += 37e3) {
    double best = kNoDeadline;
    for (int choice = 0; choice < 2187; ++choice) {  // 3^7
      double bytes = 0, left = 0;
      for (uint32_t chunk = 0, rest = static_cast<uint32_t>(choice); chunk < 7; ++chunk, rest /= 3) {
        bytes += static_cast<double>(costs.chunk_bytes(chunk, rest % 3 + 1));
        left += costs.distortion_left(chunk, rest % 3 + 1);
      }
      if (bytes <= budget) best = std::min(best, left);
    }
    const Oracle::Answer answer = oracle.solve(budget, 0);
    CHECK(answer.meets_deadline == (best < kNoDeadline));
    if (best == kNoDeadline) continue;
    CHECK(answer.distortion == doctest::Approx(best).epsilon(1e-9));
    double left = 0;
    for (uint32_t chunk = 0; chunk < 7; ++chunk) left += costs.distortion_left(chunk, answer.actions[chunk].levels);
    CHECK(left == doctest::Approx(answer.distortion));
  }
}

TEST_CASE("our policy: meets every deadline that the oracle meets on the link alone, close to its distortion") {
  double ours = 0, oracle = 0;
  int met = 0;
  for (const BandwidthTrace& link : sample_links()) {
    for (const double deadline_s : {0.8, 1.5, 3.0}) {
      const Scenario scenario = sample_scenario(32, deadline_s);
      const Oracle::Answer best = Oracle(scenario).solve(link, 0);
      if (!best.meets_deadline) continue;
      CAPTURE(link.name());
      CAPTURE(deadline_s);
      const Outcome outcome = simulate(scenario, link, 0, *planner_policy());
      CHECK(meets_deadline(outcome.ttft_s, deadline_s));
      ours += outcome.distortion;
      oracle += best.distortion;
      ++met;
    }
  }
  CHECK(met > 15);
  CHECK(ours < 1.08 * oracle);  // on links made to surprise
}

TEST_CASE("our policy: an engine makes deadlines that the link alone cannot") {
  const Scenario alone = sample_scenario(32, 2);
  const Scenario with_engine = sample_scenario(32, 2, 5000);
  const BandwidthTrace slow = BandwidthTrace::constant(1e5, 0.02);
  CHECK_FALSE(meets_deadline(simulate(alone, slow, 0, *planner_policy()).ttft_s, 2));
  for (const RecomputeMode mode : {RecomputeMode::kWhenNeeded, RecomputeMode::kAlways}) {
    const Outcome outcome = simulate(with_engine, slow, 0, *planner_policy(mode));
    CHECK(meets_deadline(outcome.ttft_s, 2));
    CHECK(outcome.actions.front().kind == ActionKind::kRecompute);
    CHECK(outcome.actions.back().kind == ActionKind::kLoad);
  }
  // Where the link suffices, a spared engine stays idle.
  const BandwidthTrace fast = BandwidthTrace::constant(5e6, 0.02);
  CHECK(simulate(with_engine, fast, 0, *planner_policy(RecomputeMode::kWhenNeeded)).engine_s < 0.1);
}

TEST_CASE("policies: each does what its paper says, where that can be seen") {
  const BandwidthTrace link = BandwidthTrace::constant(1e6, 0.02);
  // Cake: the engine from the head, the link from the tail, everything at full quality.
  const Outcome cake = simulate(sample_scenario(20, 60, 2560), link, 0, *cake_policy());
  CHECK(cake.actions.front().kind == ActionKind::kRecompute);
  CHECK(cake.actions.back() == ChunkAction{ActionKind::kLoad, 3, 0.0});
  CHECK(cake.ttft_s < 1.3);  // 10 chunks/s from both sides
  CHECK(cake.ttft_s > 0.9);
  // CacheGen: text where the engine makes it, else the best level that fits a steady link, exactly in time.
  CHECK(simulate(sample_scenario(20, 60, 2560), link, 0, *cachegen_policy()).distortion == 0);
  const Outcome levels = simulate(sample_scenario(20, 1.2), link, 0, *cachegen_policy());
  CHECK(meets_deadline(levels.ttft_s, 1.2));
  CHECK(levels.actions[0].levels == 1);  // nothing but the opening is known yet
  CHECK(levels.actions[10].levels == 2);
  // KVServe decides once.
  const Outcome serve = simulate(sample_scenario(20, 1.2), link, 0, *kvserve_policy());
  for (const ChunkAction& action : serve.actions) CHECK(action == serve.actions.front());
  // SparKV uses both, and is faster than either alone.
  const Outcome spark = simulate(sample_scenario(20, 60, 2560), link, 0, *sparkv_policy());
  CHECK(spark.engine_s > 0.3);
  CHECK(spark.ttft_s < 1.5);
  // A more careful player never takes more bytes on a steady link.
  CHECK(simulate(sample_scenario(20, 1.2), link, 0, *min_ewma_policy(0.7)).bytes <=
        simulate(sample_scenario(20, 1.2), link, 0, *min_ewma_policy(0.85)).bytes);
  // RobustMPC: the horizon's best, in time on a steady link.
  CHECK(meets_deadline(simulate(sample_scenario(20, 1.2), link, 0, *robust_mpc_policy()).ttft_s, 1.25));
}
