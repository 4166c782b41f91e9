// SPDX-License-Identifier: Apache-2.0
// Policies that pick a level per chunk, in order, from a throughput (policies.h): CacheGen, min-EWMA, RobustMPC.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>

#include "net/policies.h"

namespace kvpack {
namespace {

// What they have in common: chunk after chunk, whole, each after the one before.
class ChunkByChunk : public Policy {
 public:
  void start(const Scenario& scenario) override {
    scenario_ = &scenario;
    next_chunk_ = 0;
    forget();
  }

  PolicyMove decide(const PlanState& state) override {
    PolicyMove move;
    if (next_chunk_ >= costs().chunks() || state.bytes_on_the_way > 0 || state.engine_running) return move;
    const uint32_t levels = levels_for(state);
    if (levels == 0) {
      move.compute = next_chunk_;
    } else {
      move.load = {{0, levels, next_chunk_, 1}};
    }
    ++next_chunk_;
    return move;
  }

 protected:
  virtual void forget() = 0;
  // How many levels of `next_chunk_` to load; 0: recompute it.
  virtual uint32_t levels_for(const PlanState& state) = 0;

  const ContextCosts& costs() const { return scenario_->context; }
  double time_left_s(const PlanState& state) const {
    return loading_deadline_s(costs(), scenario_->goal) - state.now_s;
  }
  double bytes_left(uint32_t from_chunk, uint32_t levels) const {
    double bytes = 0;
    for (uint32_t chunk = from_chunk; chunk < costs().chunks(); ++chunk) {
      bytes += static_cast<double>(costs().chunk_bytes(chunk, levels));
    }
    return bytes;
  }
  // The most levels at which everything from `chunk` on arrives in time, at least one.
  uint32_t uniform_levels(uint32_t chunk, double bytes_per_s, double time_s) const {
    for (uint32_t levels = costs().levels(); levels > 1; --levels) {
      if (bytes_left(chunk, levels) <= bytes_per_s * time_s) return levels;
    }
    return 1;
  }

  const Scenario* scenario_ = nullptr;
  uint32_t next_chunk_ = 0;
};

// Adds up the blocks of a chunk, so that a rule sees the throughput of whole chunks.
class ChunkThroughput {
 public:
  void reset() { *this = {}; }
  void observe(const TransferSample& sample) {
    bytes_ += static_cast<double>(sample.bytes);
    busy_s_ += sample.busy_s;
  }
  // Of what came since the last call; nullopt if nothing did.
  std::optional<double> take() {
    if (bytes_ <= 0) return std::nullopt;
    const double rate = bytes_ / std::max(busy_s_, 1e-9);
    reset();
    return rate;
  }

 private:
  double bytes_ = 0;
  double busy_s_ = 0;
};

class CacheGen : public ChunkByChunk {
 public:
  std::string name() const override { return "CacheGen"; }
  void observe(const TransferSample& sample) override { chunk_.observe(sample); }

 private:
  void forget() override {
    chunk_.reset();
    last_ = 0;
  }

  uint32_t levels_for(const PlanState& state) override {
    last_ = chunk_.take().value_or(last_);
    const double left_s = time_left_s(state);
    if (scenario_->goal.prefill_tokens_per_s > 0 && costs().recomputable) {
      double tokens = 0;
      for (uint32_t chunk = next_chunk_; chunk < costs().chunks(); ++chunk) tokens += costs().tokens[chunk];
      if (tokens / scenario_->goal.prefill_tokens_per_s <= left_s) return 0;
    }
    return uniform_levels(next_chunk_, last_, left_s);
  }

  ChunkThroughput chunk_;
  double last_ = 0;
};

class MinEwma : public ChunkByChunk {
 public:
  explicit MinEwma(double safety) : safety_(safety) {}
  std::string name() const override { return fmt::format("min-EWMA {}", safety_); }
  void observe(const TransferSample& sample) override { chunk_.observe(sample); }

 private:
  // Weights of the past, per chunk: half-lives of about one and six chunks.
  static constexpr double kFast = 0.5;
  static constexpr double kSlow = 0.9;

  void forget() override {
    chunk_.reset();
    fast_ = slow_ = 0;
  }

  uint32_t levels_for(const PlanState& state) override {
    if (const auto rate = chunk_.take()) {
      fast_ = fast_ == 0 ? *rate : kFast * fast_ + (1 - kFast) * *rate;
      slow_ = slow_ == 0 ? *rate : kSlow * slow_ + (1 - kSlow) * *rate;
    }
    return uniform_levels(next_chunk_, safety_ * std::min(fast_, slow_), time_left_s(state));
  }

  const double safety_;
  ChunkThroughput chunk_;
  double fast_ = 0;
  double slow_ = 0;
};

class RobustMpc : public ChunkByChunk {
 public:
  std::string name() const override { return "RobustMPC"; }
  void observe(const TransferSample& sample) override { chunk_.observe(sample); }

 private:
  static constexpr size_t kHistory = 5;
  static constexpr uint32_t kHorizon = 5;
  static constexpr uint64_t kMaxSequences = 4096;

  void forget() override {
    chunk_.reset();
    rates_.clear();
    errors_.clear();
    predicted_ = 0;
  }

  void learn(double rate) {
    if (predicted_ > 0) {
      errors_.push_back(std::abs(predicted_ - rate) / rate);
      if (errors_.size() > kHistory) errors_.pop_front();
    }
    rates_.push_back(rate);
    if (rates_.size() > kHistory) rates_.pop_front();
    double inverse = 0;
    for (const double past : rates_) inverse += 1 / past;
    predicted_ = static_cast<double>(rates_.size()) / inverse;
  }

  uint32_t levels_for(const PlanState& state) override {
    if (const auto rate = chunk_.take()) learn(*rate);
    const double error = errors_.empty() ? 0 : *std::max_element(errors_.begin(), errors_.end());
    const double budget = predicted_ / (1 + error) * time_left_s(state);
    uint32_t horizon = std::min(kHorizon, costs().chunks() - next_chunk_);
    while (std::pow(costs().levels(), horizon) > static_cast<double>(kMaxSequences)) --horizon;
    return best_first(std::max(horizon, 1u), budget);
  }

  // The first of the best sequence of levels; the lowest if none fits.
  uint32_t best_first(uint32_t horizon, double budget) const {
    const uint32_t levels = costs().levels();
    std::vector<double> rest_bytes, rest_left;  // [levels - 1] everything after the horizon at one level
    for (uint32_t n = 1; n <= levels; ++n) {
      rest_bytes.push_back(bytes_left(next_chunk_ + horizon, n));
      double left = 0;
      for (uint32_t c = next_chunk_ + horizon; c < costs().chunks(); ++c) left += costs().distortion_left(c, n);
      rest_left.push_back(left);
    }
    uint32_t best_levels = 1;
    double best = kNoDeadline;
    std::vector<uint32_t> sequence(horizon, 1);
    while (true) {
      double bytes = 0, left = 0;
      for (uint32_t i = 0; i < horizon; ++i) {
        bytes += static_cast<double>(costs().chunk_bytes(next_chunk_ + i, sequence[i]));
        left += costs().distortion_left(next_chunk_ + i, sequence[i]);
      }
      for (uint32_t n = levels; n >= 1; --n) {
        if (bytes + rest_bytes[n - 1] > budget) continue;
        if (left + rest_left[n - 1] < best) {
          best = left + rest_left[n - 1];
          best_levels = sequence[0];
        }
        break;
      }
      uint32_t digit = 0;
      while (digit < horizon && sequence[digit] == levels) sequence[digit++] = 1;
      if (digit == horizon) return best_levels;
      ++sequence[digit];
    }
  }

  ChunkThroughput chunk_;
  std::deque<double> rates_;
  std::deque<double> errors_;
  double predicted_ = 0;
};

}  // namespace

std::unique_ptr<Policy> cachegen_policy() { return std::make_unique<CacheGen>(); }
std::unique_ptr<Policy> min_ewma_policy(double safety) { return std::make_unique<MinEwma>(safety); }
std::unique_ptr<Policy> robust_mpc_policy() { return std::make_unique<RobustMpc>(); }

}  // namespace kvpack
