// SPDX-License-Identifier: Apache-2.0
// Deadlines missed and distortion above the oracle, for every policy, over a list of scenarios. `run` beside this file
// builds and starts it; README.md says what the numbers mean.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>

#include "net/oracle.h"
#include "net/policies.h"
#include "tests/bench/ttft/bar_chart.h"
#include "tests/bench/ttft/scenario_list.h"

namespace kvpack {
namespace {

struct Score {
  uint32_t deadlines = 0;  // that the oracle meets
  uint32_t missed = 0;
  double distortion = 0;  // over those that both meet
  double oracle_distortion = 0;
  double ratios = 0;  // of the two, added up
  uint32_t rated = 0;
  double engine_s = 0;
  double requests = 0;
  uint32_t impossible = 0;      // deadlines that the oracle cannot meet
  uint32_t impossible_met = 0;  // and the policy does: must stay 0
  uint32_t better = 0;          // than the oracle: must stay 0

  double missed_percent() const { return deadlines > 0 ? 100.0 * missed / deadlines : 0; }
  double above_percent() const { return oracle_distortion > 0 ? 100 * (distortion / oracle_distortion - 1) : 0; }
  double mean_above_percent() const { return rated > 0 ? 100 * (ratios / rated - 1) : 0; }
};

struct Group {
  std::vector<std::string> order;
  std::map<std::string, Score> scores;  // [policy]
  Score& of(const std::string& policy) {
    if (scores.find(policy) == scores.end()) order.push_back(policy);
    return scores[policy];
  }
};

using Groups = std::vector<std::pair<std::string, Group>>;

Group& group_named(Groups& groups, const std::string& name) {
  for (auto& [known, group] : groups) {
    if (known == name) return group;
  }
  return groups.emplace_back(name, Group{}).second;
}

// Others (SparKV's) are not bounded by the oracle.
bool recomputes_a_front(const Outcome& outcome) {
  const auto loaded = [](const ChunkAction& action) { return action.kind == ActionKind::kLoad; };
  const auto first = std::find_if(outcome.actions.begin(), outcome.actions.end(), loaded);
  return std::all_of(first, outcome.actions.end(), loaded);
}

void add_to(Score& score, const Oracle::Answer& oracle, const Outcome& outcome, double deadline_s) {
  const bool met = meets_deadline(outcome.ttft_s, deadline_s);
  if (!oracle.meets_deadline) {
    ++score.impossible;
    score.impossible_met += met ? 1 : 0;
    return;
  }
  ++score.deadlines;
  score.engine_s += outcome.engine_s;
  score.requests += outcome.requests;
  if (!met) {
    ++score.missed;
    return;
  }
  score.distortion += outcome.distortion;
  score.oracle_distortion += oracle.distortion;
  if (recomputes_a_front(outcome) && outcome.distortion < oracle.distortion * (1 - 1e-9)) ++score.better;
  if (oracle.distortion <= 0) return;
  score.ratios += outcome.distortion / oracle.distortion;
  ++score.rated;
}

struct CsvFile {
  std::ofstream file;
  void row(const BandwidthTrace& trace, double start_s, const std::string& context, const PlanGoal& goal,
           const std::string& policy, double ttft_s, double distortion) {
    if (!file.is_open()) return;
    file << fmt::format("\"{}\",{:.3f},\"{}\",{},{},{:.6g},\"{}\",{:.6f},{:.6g}\n", trace.name(), start_s, context,
                        goal.prefill_tokens_per_s, goal.deadline_s, trace.mean_bytes_per_s(), policy, ttft_s,
                        distortion);
  }
};

std::vector<std::unique_ptr<Policy>> policies_for(const PlanGoal& goal) {
  std::vector<std::unique_ptr<Policy>> policies = all_policies();
  // Sparing the engine is another policy only where there is one.
  if (goal.prefill_tokens_per_s <= 0) policies.erase(policies.begin() + 1);
  return policies;
}

void run_links(const std::vector<BenchLink>& links, const BenchContext& context, const PlanGoal& goal, Group& group,
               CsvFile& csv) {
  const Scenario scenario{context.costs, goal};
  const Oracle oracle(scenario);
  const auto policies = policies_for(goal);
  for (const BenchLink& link : links) {
    for (const double start_s : link.starts_s) {
      const Oracle::Answer best = oracle.solve(link.trace, start_s);
      csv.row(link.trace, start_s, context.name, goal, "oracle", best.meets_deadline ? goal.deadline_s : kNoDeadline,
              best.distortion);
      for (const auto& policy : policies) {
        const Outcome outcome = simulate(scenario, link.trace, start_s, *policy);
        add_to(group.of(policy->name()), best, outcome, goal.deadline_s);
        csv.row(link.trace, start_s, context.name, goal, policy->name(), outcome.ttft_s, outcome.distortion);
      }
    }
  }
}

Groups run_all(const ScenarioList& list, const std::vector<BandwidthTrace>& traces, CsvFile& csv) {
  Groups groups;
  for (const BenchContext& context : list.contexts) {
    for (const double deadline_s : list.deadlines_s) {
      const double bytes = list.fits * static_cast<double>(context.costs.total_bytes());
      std::vector<BenchLink> real;
      for (const BandwidthTrace& trace : traces) {
        real.push_back(scaled_link(trace, bytes, deadline_s, list.windows_per_trace));
      }
      const std::vector<BenchLink> generated = generated_links(bytes, deadline_s, list.windows_per_trace);
      for (const double engine : list.engines_tokens_per_s) {
        PlanGoal goal;
        goal.deadline_s = deadline_s;
        goal.last_prefill_s = list.last_prefill_s;
        goal.decode_bytes_per_s = list.decode_bytes_per_s;
        goal.prefill_tokens_per_s = engine;
        const std::string with = engine > 0 ? fmt::format("engine of {} tokens/s", engine) : "link alone";
        if (!real.empty()) run_links(real, context, goal, group_named(groups, "measured links, " + with), csv);
        run_links(generated, context, goal, group_named(groups, "generated links, " + with), csv);
      }
    }
  }
  return groups;
}

void print_group(const std::string& name, const Group& group) {
  const Score& first = group.scores.at(group.order.front());
  fmt::print("\n{}: {} deadlines that can be met ({} that cannot)\n", name, first.deadlines, first.impossible);
  fmt::print("  {:<24} {:>9} {:>14} {:>16} {:>10} {:>10}\n", "policy", "missed", "above oracle", "mean of ratios",
             "engine", "requests");
  for (const std::string& policy : group.order) {
    const Score& score = group.scores.at(policy);
    const double per = std::max(1u, score.deadlines);
    fmt::print("  {:<24} {:>7.2f} % {:>12.1f} % {:>14.1f} % {:>8.2f} s {:>10.1f}\n", policy, score.missed_percent(),
               score.above_percent(), score.mean_above_percent(), score.engine_s / per, score.requests / per);
  }
}

void write_picture(const std::string& path, const Groups& groups) {
  std::vector<BarGroup> charts;
  for (const auto& [name, group] : groups) {
    BarGroup chart{name, {}};
    for (const std::string& policy : group.order) {
      const Score& score = group.scores.at(policy);
      chart.bars.push_back(
          {policy, score.missed_percent(), score.mean_above_percent(), score.missed < score.deadlines});
    }
    charts.push_back(std::move(chart));
  }
  std::ofstream(path) << bar_chart_svg(charts);
}

// What no policy may do: meet a deadline that the oracle cannot, or beat its distortion.
int count_impossible(const Groups& groups) {
  int found = 0;
  for (const auto& [name, group] : groups) {
    for (const auto& [policy, score] : group.scores) {
      if (score.impossible_met + score.better == 0) continue;
      fmt::print(stderr, "{}: {} met {} impossible deadlines and beat the oracle {} times\n", name, policy,
                 score.impossible_met, score.better);
      ++found;
    }
  }
  return found;
}

// On measured links ours, with an engine that is idle or spared, must miss at most 0.5 % of the deadlines that the
// oracle meets, with at most 5 % more distortion where the link works alone. With an engine the oracle's distortion can
// be zero, so only misses count.
int check_ours(const Groups& groups) {
  int failures = 0;
  for (const auto& [name, group] : groups) {
    if (name.rfind("measured", 0) != 0) continue;
    const bool link_alone = name.find("link alone") != std::string::npos;
    for (const std::string& policy : group.order) {
      if (policy.rfind("kvpack", 0) != 0) continue;
      const Score& ours = group.scores.at(policy);
      const bool in_time = ours.missed_percent() <= 0.5;
      const bool close = !link_alone || (ours.above_percent() <= 5 && ours.mean_above_percent() <= 5);
      fmt::print("{}: {}, {}: {:.2f} % missed (at most 0.5)", in_time && close ? "ok" : "NOT MET", policy, name,
                 ours.missed_percent());
      if (link_alone) {
        fmt::print(", {:.1f} % above the oracle, mean of ratios {:.1f} % (at most 5)", ours.above_percent(),
                   ours.mean_above_percent());
      }
      fmt::print("\n");
      failures += in_time && close ? 0 : 1;
    }
  }
  return failures;
}

int fail(const Error& error) {
  fmt::print(stderr, "ttft_bench: {}\n", error.message);
  return 2;
}

int run(const std::map<std::string, std::string>& options) {
  const auto list = read_scenarios(options.at("--scenarios"));
  if (!list.ok()) return fail(list.error());
  std::vector<BandwidthTrace> traces;
  if (options.count("--traces") > 0) {
    auto found = read_traces(options.at("--traces"));
    if (!found.ok()) return fail(found.error());
    traces = std::move(*found);
  }
  CsvFile csv;
  if (options.count("--csv") > 0) {
    csv.file.open(options.at("--csv"));
    csv.file << "trace,start_s,context,engine_tokens_per_s,deadline_s,mean_bytes_per_s,policy,ttft_s,distortion\n";
  }
  const Groups groups = run_all(*list, traces, csv);
  for (const auto& [name, group] : groups) print_group(name, group);
  if (options.count("--svg") > 0) write_picture(options.at("--svg"), groups);
  fmt::print("\n");
  const int impossible = count_impossible(groups);
  const int failures = check_ours(groups);
  return impossible + failures > 0 ? 1 : 0;
}

}  // namespace
}  // namespace kvpack

int main(int argc, char** argv) {
  std::map<std::string, std::string> options;
  for (int i = 1; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  if (argc % 2 == 0 || options.count("--scenarios") == 0) {
    fmt::print(stderr, "usage: ttft_bench --scenarios FILE [--traces FOLDER] [--csv FILE] [--svg FILE]\n");
    return 2;
  }
  return kvpack::run(options);
}
