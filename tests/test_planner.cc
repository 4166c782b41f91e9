// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>

#include "net/planner.h"
#include "net/refinement_order.h"
#include "tests/archive_samples.h"
#include "tests/planner_samples.h"

using namespace kvpack;

namespace {

uint64_t bytes_of(const ContextCosts& costs, const std::vector<RangeStep>& steps) {
  uint64_t bytes = 0;
  for (const RangeStep& step : steps) bytes += step_bytes(costs, step);
  return bytes;
}

PlanState with_base(uint32_t chunks) {
  PlanState state(chunks);
  state.held.assign(chunks, 1);
  state.requested.assign(chunks, 1);
  return state;
}

}  // namespace

TEST_CASE("context costs are the directory's") {
  const SampleArchive sample = small_archive();
  MemorySource source(sample.file);
  const auto reader = ArchiveReader::open(source);
  REQUIRE(reader.ok());
  const ContextCosts costs = context_costs(reader->directory());
  CHECK(costs.levels() == 2);
  CHECK(costs.tokens == std::vector<uint32_t>{3, 2});
  CHECK(costs.total_bytes() == reader->directory().level_bytes(0) + reader->directory().level_bytes(1));
  CHECK(costs.opening_bytes == reader->directory().block(0, 0).offset);
  CHECK(costs.raw_bytes == 5 * 2 * 128 * 2);
  CHECK(costs.recomputable);
}

TEST_CASE("refinements: best first, a chunk's levels in order, all of them once") {
  const ContextCosts costs = sample_costs(20);
  const auto order = refinement_order(costs, std::vector<uint8_t>(20, 1), 3);
  CHECK(order.size() == 17 * 2);
  std::vector<uint32_t> next(20, 1);
  for (size_t i = 0; i < order.size(); ++i) {
    // Within half an octave the file's order counts more.
    if (i > 0) CHECK(order[i].removed_per_byte <= order[i - 1].removed_per_byte * 1.4143);
    CHECK(order[i].chunk >= 3);
    CHECK(order[i].level == next[order[i].chunk]++);
  }
}

TEST_CASE("refinements: a poor level that a good one needs is rated with it") {
  ContextCosts costs = sample_costs(2, 0);
  costs.distortion[1] = {81, 40};  // level 1 alone brings the first chunk nothing
  costs.distortion[2] = {1, 39};
  const auto order = refinement_order(costs, {1, 1}, 0);
  REQUIRE(order.size() == 4);
  CHECK(order[0].chunk == 1);  // (81 - 40) / 40 kB beats (81 - 1) / 90 kB
  CHECK(order[1].chunk == 0);
  CHECK(order[1].level == 1);
  CHECK(order[2].chunk == 0);
  CHECK(order[1].removed_per_byte == order[2].removed_per_byte);
}

TEST_CASE("coalescing makes the fewest ranges, and loses none") {
  std::vector<Refinement> pieces;
  for (const uint32_t chunk : {5u, 3u, 4u, 9u}) pieces.push_back({1, chunk, 1, 0});
  pieces.push_back({2, 4, 1, 0});
  const auto steps = coalesce(pieces);
  CHECK(steps == std::vector<RangeStep>{{1, 1, 3, 3}, {1, 1, 9, 1}, {2, 1, 4, 1}});
}

TEST_CASE("plan: the base comes first, in one range") {
  const ContextCosts costs = sample_costs(32);
  PlanGoal goal;
  goal.deadline_s = 3;
  const Plan plan = make_plan(costs, goal, known_link(1e6), PlanState(32));
  CHECK(plan.next == std::vector<RangeStep>{{0, 1, 0, 32}});
  CHECK(plan.base_is_safe);
  CHECK_FALSE(plan.run_engine);
  CHECK(plan.stop_s == doctest::Approx(3));
}

TEST_CASE("plan: what is planned fits before deadline, last prefill and decoding") {
  const ContextCosts costs = sample_costs(32);
  PlanGoal goal;
  goal.deadline_s = 2;
  goal.last_prefill_s = 0.3;
  goal.decode_bytes_per_s = 1e7;
  const Plan plan = make_plan(costs, goal, known_link(1e6), PlanState(32));
  CHECK(plan.expected_ready_s <= plan.stop_s + 1e-9);
  CHECK(plan.stop_s < 1.7);
  CHECK(plan.stop_s == doctest::Approx(1.7 - decoding_tail_s(costs, goal)));
  uint64_t bytes = 0;
  double left = 0;
  for (uint32_t chunk = 0; chunk < 32; ++chunk) {
    CHECK(plan.actions[chunk].kind == ActionKind::kLoad);
    CHECK(plan.actions[chunk].levels >= 1);
    bytes += costs.chunk_bytes(chunk, plan.actions[chunk].levels);
    left += costs.distortion_left(chunk, plan.actions[chunk].levels);
  }
  CHECK(static_cast<double>(bytes) > 0.9 * 1e6 * plan.stop_s);  // and uses the link
  CHECK(plan.expected_distortion == doctest::Approx(left));
}

TEST_CASE("plan: a later deadline, a faster link, never a worse context") {
  const ContextCosts costs = sample_costs(24);
  PlanGoal goal;
  double last = kNoDeadline;
  for (double deadline_s = 0.5; deadline_s < 4; deadline_s += 0.25) {
    goal.deadline_s = deadline_s;
    const double distortion = make_plan(costs, goal, known_link(1e6), PlanState(24)).expected_distortion;
    CHECK(distortion <= last);
    CHECK(make_plan(costs, goal, known_link(2e6), PlanState(24)).expected_distortion <= distortion);
    last = distortion;
  }
}

TEST_CASE("plan: without a deadline everything is fetched, and the engine rests") {
  const ContextCosts costs = sample_costs(16);
  PlanGoal goal;
  goal.prefill_tokens_per_s = 1000;
  goal.recompute = RecomputeMode::kAlways;
  PlanState state(16);
  const Plan first = make_plan(costs, goal, ThroughputEstimate(), state);
  CHECK(first.next == std::vector<RangeStep>{{0, 1, 0, 16}});
  CHECK_FALSE(first.run_engine);
  state = with_base(16);
  const Plan second = make_plan(costs, goal, known_link(1e6), state);
  CHECK(second.next == std::vector<RangeStep>{{1, 1, 0, 16}, {2, 1, 0, 16}});
  for (const ChunkAction& action : second.actions) CHECK(action == ChunkAction{ActionKind::kLoad, 3, 0.0});
}

TEST_CASE("plan: refinements go out in batches of what still fits, and none past the end") {
  const ContextCosts costs = sample_costs(32);
  PlanGoal goal;
  goal.deadline_s = 2;
  PlanState state = with_base(32);
  state.now_s = 0.5;
  const Plan plan = make_plan(costs, goal, known_link(1e6, 0), state);
  CHECK(bytes_of(costs, plan.next) > 1.5e6 / 8 * 0.9);
  CHECK(bytes_of(costs, plan.next) < 1.5e6 / 8 + 200e3);
  state.now_s = 2;
  CHECK(make_plan(costs, goal, known_link(1e6), state).next.empty());
  state.now_s = 0.5;
  state.held.assign(32, 3);
  state.requested.assign(32, 3);
  CHECK(make_plan(costs, goal, known_link(1e6), state).next.empty());
}

TEST_CASE("plan: recompute from the front, base from the back, where the base cannot make it") {
  const ContextCosts costs = sample_costs(32, 0);
  PlanGoal goal;
  goal.deadline_s = 2;
  goal.prefill_tokens_per_s = 2560;                    // 10 chunks/s: 20 of the 32
  const ThroughputEstimate link = known_link(1e5, 0);  // 20 of the 32 too
  const Plan plan = make_plan(costs, goal, link, PlanState(32));
  CHECK_FALSE(plan.base_is_safe);
  CHECK(plan.run_engine);
  REQUIRE(plan.next.size() == 2);
  CHECK(plan.next[0] == RangeStep{0, 1, 30, 2});
  CHECK(plan.next[1] == RangeStep{0, 1, 28, 2});
  CHECK(plan.actions[0] == ChunkAction{ActionKind::kRecompute, 0, 1.0});
  CHECK(plan.actions[31] == ChunkAction{ActionKind::kLoad, 1, 0.0});
  const auto recomputed = std::count_if(plan.actions.begin(), plan.actions.end(),
                                        [](const ChunkAction& a) { return a.kind == ActionKind::kRecompute; });
  CHECK(recomputed >= 12);
  CHECK(recomputed <= 14);
  goal.recompute = RecomputeMode::kOff;
  CHECK_FALSE(make_plan(costs, goal, link, PlanState(32)).run_engine);
}

TEST_CASE("plan: an engine that could do it alone starts before it is too late, whatever the link promised") {
  const ContextCosts costs = sample_costs(10, 0);
  PlanGoal goal;
  goal.deadline_s = 4;
  goal.prefill_tokens_per_s = 2560;  // all in one second
  PlanState state(10);
  state.requested.assign(10, 1);  // asked for, not come
  state.bytes_on_the_way = 100'000;
  state.now_s = 1;
  const Plan early = make_plan(costs, goal, known_link(1e6), state);
  CHECK_FALSE(early.run_engine);
  CHECK(early.look_again_s > 1);
  state.now_s = 2.95;
  state.silent_s = 1.9;
  CHECK(make_plan(costs, goal, known_link(1e6), state).run_engine);
}

TEST_CASE("plan: several token sets cannot be recomputed") {
  ContextCosts costs = sample_costs(10);
  costs.recomputable = false;
  PlanGoal goal;
  goal.deadline_s = 1;
  goal.prefill_tokens_per_s = 1e6;
  goal.recompute = RecomputeMode::kAlways;
  CHECK_FALSE(make_plan(costs, goal, known_link(1e4), PlanState(10)).run_engine);
}

TEST_CASE("plan: blending takes engine time only, where it removes most") {
  const ContextCosts costs = sample_costs(10);
  PlanGoal goal;
  goal.deadline_s = 1;
  goal.prefill_tokens_per_s = 4000;
  goal.recompute = RecomputeMode::kWhenNeeded;
  goal.blend = BlendOption{0.25, 128};  // half a second for a chunk of 256 tokens
  PlanState state = with_base(10);
  const Plan plan = make_plan(costs, goal, known_link(1e5), state);
  goal.blend.reset();
  const Plan without = make_plan(costs, goal, known_link(1e5), state);
  uint32_t blended = 0;
  double least = 1e9, most_left = 0;
  for (uint32_t chunk = 0; chunk < 10; ++chunk) {
    const double distortion = costs.distortion_left(chunk, plan.actions[chunk].levels);
    if (plan.actions[chunk].kind == ActionKind::kBlend) {
      ++blended;
      CHECK(plan.actions[chunk].recompute_ratio == 0.25);
      least = std::min(least, distortion);
    } else {
      most_left = std::max(most_left, distortion);
    }
  }
  CHECK(blended == 1);  // a margin is left, so that two do not fit into a second
  CHECK(least >= most_left);
  CHECK(plan.expected_distortion == doctest::Approx(without.expected_distortion - 0.25 * least));
  CHECK(plan.next == without.next);
}

TEST_CASE("blend in a plan: what was loaded, at the measured speed, as far as the time goes") {
  const ContextCosts costs = sample_costs(4, 0);  // 256 tokens each, equally distorted
  const std::vector<ChunkAction> before = {
      {ActionKind::kRecompute, 0, 1}, {ActionKind::kLoad, 1, 0}, {ActionKind::kLoad, 3, 0}, {ActionKind::kLoad, 1, 0}};
  const BlendOption blend{0.5, 256};
  std::vector<ChunkAction> actions = before;
  CHECK(choose_blend(costs, blend, 1e9, actions) == doctest::Approx(1.5));
  CHECK(actions[0] == before[0]);
  for (uint32_t chunk = 1; chunk < 4; ++chunk) CHECK(actions[chunk].kind == ActionKind::kBlend);
  actions = before;
  CHECK(choose_blend(costs, blend, 1.2, actions) == doctest::Approx(1));
  CHECK(actions[2] == before[2]);  // has least to gain
  CHECK(actions[1].kind == ActionKind::kBlend);
  CHECK(actions[3].kind == ActionKind::kBlend);
  actions = before;
  CHECK(choose_blend(costs, blend, 0.4, actions) == 0);
  CHECK(actions == before);
}

TEST_CASE("planner: the engine does not begin what the link brings sooner, and sections count as missing") {
  const ContextCosts costs = sample_costs(10, 0);  // bases of 10,000 bytes
  PlanGoal goal;
  goal.deadline_s = 20;
  goal.prefill_tokens_per_s = costs.tokens[0];       // a second for a chunk
  const ThroughputEstimate link = known_link(5000);  // two seconds for a base
  PlanState state(costs.chunks());
  CHECK(engine_chunk_pays(costs, goal, link, state));
  // The last chunk that is missing: the engine is faster; where it has to pass three loaded ones first, the link is.
  for (uint32_t chunk = 1; chunk < 10; ++chunk) state.held[chunk] = state.requested[chunk] = 1;
  CHECK(engine_chunk_pays(costs, goal, link, state));
  state.held[0] = state.requested[0] = 1;
  state.held[3] = state.requested[3] = 0;
  CHECK_FALSE(engine_chunk_pays(costs, goal, link, state));
  // Sections that have to come anyway: the link needs longer than the engine now.
  CHECK(make_plan(costs, goal, known_link(2500), state).base_is_safe);
  state.sections_missing_bytes = 40'000;
  CHECK_FALSE(make_plan(costs, goal, known_link(2500), state).base_is_safe);
  CHECK(engine_chunk_pays(costs, goal, link, state));
  // An idle engine computes what it can finish.
  goal.recompute = RecomputeMode::kAlways;
  state.now_s = 18.5;
  CHECK(engine_chunk_pays(costs, goal, link, state));
  state.now_s = 19.5;
  CHECK_FALSE(engine_chunk_pays(costs, goal, link, state));
}
