// SPDX-License-Identifier: Apache-2.0
// Policies that share whole chunks between link and engine, or decide once (policies.h): Cake, SparKV, KVServe.
#include <algorithm>

#include "net/policies.h"

namespace kvpack {
namespace {

class MeanThroughput {
 public:
  void reset() { *this = {}; }
  void observe(const TransferSample& sample) {
    bytes_ += static_cast<double>(sample.bytes);
    busy_s_ += sample.busy_s;
  }
  double bytes_per_s() const { return busy_s_ > 0 ? bytes_ / busy_s_ : 0; }

 private:
  double bytes_ = 0;
  double busy_s_ = 0;
};

class Cake : public Policy {
 public:
  std::string name() const override { return "Cake"; }
  void start(const Scenario& scenario) override {
    scenario_ = &scenario;
    tail_ = scenario.context.chunks();
    head_ = 0;
  }

  PolicyMove decide(const PlanState& state) override {
    PolicyMove move;
    const ContextCosts& costs = scenario_->context;
    const bool engine = scenario_->goal.prefill_tokens_per_s > 0 && costs.recomputable;
    if (state.bytes_on_the_way == 0 && tail_ > head_) {
      --tail_;
      move.load = {{0, costs.levels(), tail_, 1}};
    }
    if (engine && !state.engine_running && head_ < tail_) move.compute = head_++;
    return move;
  }

 private:
  const Scenario* scenario_ = nullptr;
  uint32_t head_ = 0;  // chunks that the engine has taken
  uint32_t tail_ = 0;  // chunks from here on are loaded
};

class SparKv : public Policy {
 public:
  std::string name() const override { return "SparKV"; }
  void start(const Scenario& scenario) override {
    scenario_ = &scenario;
    throughput_.reset();
    taken_.assign(scenario.context.chunks(), 0);
  }
  void observe(const TransferSample& sample) override { throughput_.observe(sample); }

  PolicyMove decide(const PlanState& state) override {
    const ContextCosts& costs = scenario_->context;
    const double prefill = costs.recomputable ? scenario_->goal.prefill_tokens_per_s : 0;
    PolicyMove move;
    // When each of the two would be free, then chunk by chunk in prompt order to whichever is done first. Only the
    // first of each list begins; the rest is decided again later.
    double link_s = static_cast<double>(state.bytes_on_the_way) / throughput_.bytes_per_s();
    double engine_s = state.engine_running ? running_s_ - state.engine_chunk_s : 0;
    bool link_idle = state.bytes_on_the_way == 0, engine_idle = !state.engine_running && prefill > 0;
    for (uint32_t chunk = 0; chunk < costs.chunks() && (link_idle || engine_idle); ++chunk) {
      if (taken_[chunk] != 0) continue;
      const double load_s = static_cast<double>(costs.chunk_bytes(chunk, costs.levels())) / throughput_.bytes_per_s();
      const double compute_s = prefill > 0 ? costs.tokens[chunk] / prefill : kNoDeadline;
      if (prefill > 0 && engine_s + compute_s <= link_s + load_s) {
        engine_s += compute_s;
        if (!engine_idle || !available_before(state, chunk)) continue;
        move.compute = chunk;
        running_s_ = compute_s;
        engine_idle = false;
      } else {
        link_s += load_s;
        if (!link_idle) continue;
        move.load = {{0, costs.levels(), chunk, 1}};
        link_idle = false;
      }
      taken_[chunk] = 1;
    }
    return move;
  }

 private:
  static bool available_before(const PlanState& state, uint32_t chunk) {
    for (uint32_t before = 0; before < chunk; ++before) {
      if (!state.available(before)) return false;
    }
    return true;
  }

  const Scenario* scenario_ = nullptr;
  MeanThroughput throughput_;
  std::vector<uint8_t> taken_;
  double running_s_ = 0;
};

class KvServe : public Policy {
 public:
  std::string name() const override { return "KVServe"; }
  void start(const Scenario& scenario) override {
    scenario_ = &scenario;
    throughput_.reset();
    decided_ = false;
  }
  void observe(const TransferSample& sample) override { throughput_.observe(sample); }

  PolicyMove decide(const PlanState& state) override {
    PolicyMove move;
    if (decided_) return move;
    decided_ = true;
    const ContextCosts& costs = scenario_->context;
    const double left_s = loading_deadline_s(costs, scenario_->goal) - state.now_s;
    uint32_t levels = costs.levels();
    while (levels > 1 && bytes_of(levels) > throughput_.bytes_per_s() * left_s) --levels;
    // Raw values are not in an archive. Where its rule would send them, it is given the best level at no more bytes.
    const double ratio = static_cast<double>(costs.raw_bytes) / bytes_of(levels);
    const double codec = scenario_->goal.decode_bytes_per_s * ratio;  // of raw bytes
    if (codec > 0 && costs.raw_bytes > 0 && throughput_.bytes_per_s() >= (1 - 1 / ratio) * codec) {
      levels = costs.levels();
    }
    for (uint32_t chunk = 0; chunk < costs.chunks(); ++chunk) move.load.push_back({0, levels, chunk, 1});
    return move;
  }

 private:
  double bytes_of(uint32_t levels) const {
    double bytes = 0;
    for (uint32_t level = 0; level < levels; ++level) {
      bytes += static_cast<double>(scenario_->context.level_bytes(level));
    }
    return bytes;
  }

  const Scenario* scenario_ = nullptr;
  MeanThroughput throughput_;
  bool decided_ = false;
};

}  // namespace

std::unique_ptr<Policy> cake_policy() { return std::make_unique<Cake>(); }
std::unique_ptr<Policy> sparkv_policy() { return std::make_unique<SparKv>(); }
std::unique_ptr<Policy> kvserve_policy() { return std::make_unique<KvServe>(); }

}  // namespace kvpack
