// SPDX-License-Identifier: Apache-2.0
#include "net/policies.h"

namespace kvpack {
namespace {

class PlannerPolicy : public Policy {
 public:
  explicit PlannerPolicy(std::optional<RecomputeMode> recompute) : recompute_(recompute) {}
  std::string name() const override {
    return recompute_ == RecomputeMode::kWhenNeeded ? "kvpack, engine spared" : "kvpack";
  }

  void start(const Scenario& scenario) override {
    scenario_ = &scenario;
    goal_ = scenario.goal;
    goal_.recompute = recompute_.value_or(goal_.recompute);
    estimator_ = ThroughputEstimator();
  }

  void observe(const TransferSample& sample) override { estimator_.add(sample); }

  PolicyMove decide(const PlanState& state) override {
    Plan plan = make_plan(scenario_->context, goal_, estimator_.estimate(), state);
    PolicyMove move;
    move.load = std::move(plan.next);
    if (plan.run_engine && !state.engine_running) move.compute = state.computed_front();
    move.look_again_s = plan.look_again_s;
    move.stop_s = plan.stop_s;
    return move;
  }

 private:
  const std::optional<RecomputeMode> recompute_;
  const Scenario* scenario_ = nullptr;
  PlanGoal goal_;
  ThroughputEstimator estimator_;
};

}  // namespace

std::unique_ptr<Policy> planner_policy(std::optional<RecomputeMode> recompute) {
  return std::make_unique<PlannerPolicy>(recompute);
}

std::vector<std::unique_ptr<Policy>> all_policies() {
  std::vector<std::unique_ptr<Policy>> policies;
  policies.push_back(planner_policy(RecomputeMode::kAlways));
  policies.push_back(planner_policy(RecomputeMode::kWhenNeeded));
  policies.push_back(cachegen_policy());
  policies.push_back(robust_mpc_policy());
  policies.push_back(min_ewma_policy(0.85));
  policies.push_back(min_ewma_policy(0.7));
  policies.push_back(cake_policy());
  policies.push_back(sparkv_policy());
  policies.push_back(kvserve_policy());
  return policies;
}

}  // namespace kvpack
