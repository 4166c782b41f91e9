// SPDX-License-Identifier: Apache-2.0
#include "cli/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/action_text.h"
#include "cli/exit_code.h"
#include "cli/input_file.h"
#include "cli/option_types.h"
#include "cli/output_file.h"
#include "cli/plan_picture.h"
#include "cli/printable.h"
#include "cli/quantities.h"
#include "cli/quantity_options.h"
#include "cli/table.h"
#include "net/oracle.h"
#include "net/policies.h"

namespace kvpack::cli {
namespace {

constexpr double kDefaultLatencyS = 0.02;

struct Row {
  std::string policy;
  Outcome outcome;
};

// A simulated fetch and all that is compared with it.
struct Comparison {
  Scenario scenario;
  BandwidthTrace trace = BandwidthTrace::constant(1, 0);
  double start_s = 0;
  double base_distortion = 0;            // of the base alone
  std::vector<Row> rows;                 // ours first
  std::optional<Oracle::Answer> oracle;  // with a deadline
};

Result<BandwidthTrace> trace_of(const PlanArguments& arguments) {
  if (arguments.trace.empty()) {
    return BandwidthTrace::constant(*arguments.bandwidth_bytes_per_s, arguments.latency_s.value_or(kDefaultLatencyS));
  }
  KVPACK_ASSIGN_OR_RETURN(BandwidthTrace trace, read_trace(arguments.trace));
  if (!arguments.scale_bytes_per_s) return trace;
  return trace.scaled(*arguments.scale_bytes_per_s / trace.mean_bytes_per_s());
}

Scenario scenario_of(const PlanArguments& arguments, const ArchiveReader& reader) {
  Scenario scenario{context_costs(reader.directory()), {}};
  scenario.context.opening_bytes =
      std::max(scenario.context.opening_bytes, std::min(kOpeningBytes, reader.file_bytes()));
  PlanGoal& goal = scenario.goal;
  goal.deadline_s = arguments.ttft_s.value_or(kNoDeadline);
  goal.last_prefill_s = arguments.last_prefill_s.value_or(0);
  goal.prefill_tokens_per_s = arguments.prefill_tokens_per_s.value_or(0);
  goal.decode_bytes_per_s = arguments.decode_bytes_per_s.value_or(0);
  goal.recompute = recompute_mode(arguments.recompute);
  return scenario;
}

std::optional<BlendOption> blend_of(const PlanArguments& arguments) {
  if (!arguments.blend_ratio) return std::nullopt;
  return BlendOption{*arguments.blend_ratio, *arguments.blend_tokens_per_s};
}

// Seconds of blending in a plan.
double blend_seconds(const Comparison& comparison, const BlendOption& blend) {
  double seconds = 0;
  const std::vector<ChunkAction>& actions = comparison.rows.front().outcome.actions;
  for (size_t chunk = 0; chunk < actions.size(); ++chunk) {
    if (actions[chunk].kind != ActionKind::kBlend) continue;
    seconds += blend.seconds(comparison.scenario.context.tokens[chunk]);
  }
  return seconds;
}

Comparison compare(const PlanArguments& arguments, const ArchiveReader& reader, BandwidthTrace trace) {
  Comparison out{scenario_of(arguments, reader), std::move(trace), arguments.start_s.value_or(0), 0, {}, {}};
  for (const double left : out.scenario.context.distortion[0]) out.base_distortion += left;
  std::vector<std::unique_ptr<Policy>> policies;
  policies.push_back(planner_policy());
  if (const auto blend = blend_of(arguments)) {
    out.rows.push_back({fmt::format("{}, blend {:.0f} %", policies[0]->name(), 100 * blend->ratio),
                        simulate_blend(out.scenario, out.trace, out.start_s, *planner_policy(), *blend)});
  }
  // The other rules are about deadlines.
  if (arguments.ttft_s) {
    std::vector<std::unique_ptr<Policy>> others = all_policies();
    for (size_t i = 2; i < others.size(); ++i) policies.push_back(std::move(others[i]));
    out.oracle = Oracle(out.scenario).solve(out.trace, out.start_s);
  }
  for (const auto& policy : policies) {
    out.rows.push_back({policy->name(), simulate(out.scenario, out.trace, out.start_s, *policy)});
  }
  return out;
}

nlohmann::ordered_json json_of(const PlanArguments& arguments, const Comparison& comparison) {
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
  };
  const Outcome& ours = comparison.rows.front().outcome;
  const double deadline_s = comparison.scenario.goal.deadline_s;
  nlohmann::ordered_json policies = nlohmann::ordered_json::array();
  for (const Row& row : comparison.rows) {
    policies.push_back({{"policy", row.policy},
                        {"ttft_s", number(row.outcome.ttft_s)},
                        {"in_time", meets_deadline(row.outcome.ttft_s, deadline_s)},
                        {"distortion", number(row.outcome.distortion)},
                        {"bytes", row.outcome.bytes},
                        {"requests", row.outcome.requests},
                        {"engine_s", row.outcome.engine_s}});
  }
  nlohmann::ordered_json arrivals = nlohmann::ordered_json::array();
  for (const BlockArrival& block : ours.arrivals) {
    arrivals.push_back({{"chunk", block.chunk}, {"level", block.level}, {"arrived_s", block.arrived_s}});
  }
  nlohmann::ordered_json json = {{"input", arguments.input},
                                 {"link", comparison.trace.name()},
                                 {"mean_bytes_per_s", comparison.trace.mean_bytes_per_s()},
                                 {"deadline_s", number(deadline_s)},
                                 {"ttft_s", number(ours.ttft_s)},
                                 {"in_time", meets_deadline(ours.ttft_s, deadline_s)},
                                 {"distortion", number(ours.distortion)},
                                 {"base_distortion", comparison.base_distortion},
                                 {"actions", json_of_actions(ours.actions)},
                                 {"arrivals", std::move(arrivals)},
                                 {"policies", std::move(policies)}};
  if (comparison.oracle) {
    json["oracle"] = {
        {"in_time", comparison.oracle->meets_deadline},
        {"distortion", comparison.oracle->meets_deadline ? nlohmann::ordered_json(comparison.oracle->distortion)
                                                         : nlohmann::ordered_json()}};
  }
  if (const auto blend = blend_of(arguments)) {
    json["blend"] = {{"ratio", blend->ratio},
                     {"tokens_per_s", blend->tokens_per_s},
                     {"seconds", blend_seconds(comparison, *blend)},
                     {"executed_by_fetch", false}};
  }
  return json;
}

std::string percent_of_base(const Comparison& comparison, double distortion) {
  if (!std::isfinite(distortion)) return "-";
  return fmt::format("{:.1f} %", 100 * per(distortion, comparison.base_distortion));
}

std::string seconds_text(double seconds) { return std::isfinite(seconds) ? fmt::format("{:.3f} s", seconds) : "never"; }

void print_table(const Comparison& comparison, const Console& console) {
  using Align = Table::Align;
  Table table({{"policy", Align::kLeft},
               {"first token"},
               {"", Align::kLeft},
               {"distortion"},
               {"fetched"},
               {"requests"},
               {"engine"}});
  const double deadline_s = comparison.scenario.goal.deadline_s;
  for (const Row& row : comparison.rows) {
    table.add_row({row.policy, seconds_text(row.outcome.ttft_s),
                   meets_deadline(row.outcome.ttft_s, deadline_s) ? "in time" : "late",
                   percent_of_base(comparison, row.outcome.distortion),
                   short_bytes(static_cast<double>(row.outcome.bytes)), fmt::format("{}", row.outcome.requests),
                   seconds_text(row.outcome.engine_s)});
  }
  if (comparison.oracle) {
    const bool met = comparison.oracle->meets_deadline;
    table.add_row({"oracle (knows the link)", met ? seconds_text(deadline_s) : "", met ? "in time" : "cannot either",
                   met ? percent_of_base(comparison, comparison.oracle->distortion) : "-", "", "", ""});
  }
  table.print(console);
}

void print_report(const PlanArguments& arguments, const Comparison& comparison, const Console& console) {
  const ContextCosts& context = comparison.scenario.context;
  const Outcome& ours = comparison.rows.front().outcome;
  console.print(console.bold(printable(arguments.input)) +
                fmt::format(": {} tokens, {} chunks, {} levels, {} over a link of {} on average\n",
                            grouped(context.total_tokens()), context.chunks(), context.levels(),
                            short_bytes(static_cast<double>(context.total_bytes())),
                            short_rate(comparison.trace.mean_bytes_per_s(), 1)));
  print_fields(console, {{"plan", summary_of_actions(ours.actions)}});
  if (arguments.explain) print_actions(console, ours.actions);
  print_table(comparison, console);
  console.print("Distortion: of what the base alone leaves.\n");
  if (const auto blend = blend_of(arguments)) {
    console.print(fmt::format("Blending takes {:.3f} s of that; it is `kvpack blend` that does it, fetch does not.\n",
                              blend_seconds(comparison, *blend)));
  }
}

}  // namespace

void declare_plan(CLI::App& verb, PlanArguments& arguments) {
  verb.add_option("ARCHIVE", arguments.input, "archive: a file or a URL; only its directory is read")
      ->type_name(kFileType)
      ->required();
  auto* trace = verb.add_option("--trace", arguments.trace, "bandwidth trace (JSON or \"SECONDS MBIT\" lines)")
                    ->type_name(kFileType);
  auto* bandwidth =
      add_bandwidth(verb, "--bandwidth", arguments.bandwidth_bytes_per_s, "a constant link: 100Mbit, ...");
  bandwidth->excludes(trace);
  add_duration(verb, "--latency", arguments.latency_s, "of the constant link (default: 20ms)")->excludes(trace);
  add_bandwidth(verb, "--scale", arguments.scale_bytes_per_s, "scale the trace to this mean")->needs(trace);
  add_duration(verb, "--start", arguments.start_s, "begin so far into the trace")->needs(trace);
  add_duration(verb, "--ttft", arguments.ttft_s, "deadline of the first token (default: none, everything is fetched)");
  add_duration(verb, "--last-prefill", arguments.last_prefill_s, "time for the prompt's new part, after the fetch");
  add_number_above(verb, "--prefill-tok-s", arguments.prefill_tokens_per_s, 0,
                   "speed of an engine that may recompute (default: none)");
  add_bandwidth(verb, "--decode-speed", arguments.decode_bytes_per_s,
                "of archive bytes (default: decoding takes no time)");
  add_recompute_choice(verb, arguments.recompute);
  add_number_above(verb, "--blend", arguments.blend_ratio, 0,
                   "also compute this share of what is loaded again (CacheBlend), as far as the deadline allows");
  add_number_above(verb, "--blend-tok-s", arguments.blend_tokens_per_s, 0,
                   "how fast: what `kvpack blend` measured and prints");
  verb.add_option("--plot", arguments.plot, "write the timeline as SVG")->type_name(kFileType);
  verb.add_flag("--explain", arguments.explain, "print what happens to every chunk");
  verb.add_flag("-f,--force", arguments.overwrite, "overwrite an existing picture");
  verb.add_flag("--json", arguments.json, "print everything as JSON");
  declare_net_options(verb, arguments.net);
  verb.footer(
      "Exit code: 3 if the plan is late.\n\n"
      "Examples:\n"
      "  kvpack plan ctx.kvp --bandwidth 100Mbit --ttft 1.5s\n"
      "  kvpack plan ctx.kvp --trace train.json --scale 1Gbit --ttft 2s --prefill-tok-s 4000 --plot plan.svg\n"
      "  kvpack plan ctx.kvp --bandwidth 100Mbit --ttft 3s --blend 0.15 --blend-tok-s 250");
}

Result<int> run_plan(const PlanArguments& arguments, Console& console) {
  if (arguments.trace.empty() && !arguments.bandwidth_bytes_per_s) {
    return with_hint(invalid_argument("on which link?"), "give --bandwidth 100Mbit, or a --trace FILE");
  }
  if (arguments.blend_ratio && !arguments.blend_tokens_per_s) {
    return with_hint(invalid_argument("--blend at which speed?"), "give --blend-tok-s, which kvpack blend prints");
  }
  if (arguments.blend_ratio && *arguments.blend_ratio > 1) return invalid_argument("--blend is a share, at most 1");
  std::unique_ptr<OutputFile> plot;
  if (!arguments.plot.empty()) {
    KVPACK_ASSIGN_OR_RETURN(plot, OutputFile::prepare(arguments.plot, arguments.overwrite, {arguments.input}, false));
    if (plot->is_stdout()) console.send_reports_to_stderr();
  }
  KVPACK_ASSIGN_OR_RETURN(const RangeSourceOptions options, net_options(arguments.net));
  KVPACK_ASSIGN_OR_RETURN(const auto input, ArchiveInput::open(arguments.input, options));
  KVPACK_ASSIGN_OR_RETURN(BandwidthTrace trace, trace_of(arguments));
  if (input->reader().directory().chunks.empty()) return invalid_argument(arguments.input + ": holds no tokens");
  const Comparison comparison = compare(arguments, input->reader(), std::move(trace));
  const Outcome& ours = comparison.rows.front().outcome;
  if (plot) {
    const std::string title = fmt::format("{} over {}", printable(arguments.input), comparison.trace.name());
    KVPACK_RETURN_IF_ERROR(plot->write(as_byte_span(plan_picture(comparison.scenario, ours, title))));
    KVPACK_RETURN_IF_ERROR(plot->commit());
  }
  if (arguments.json) {
    console.print_json(json_of(arguments, comparison));
  } else if (!console.quiet()) {
    print_report(arguments, comparison, console);
  }
  return int{meets_deadline(ours.ttft_s, comparison.scenario.goal.deadline_s) ? kExitOk : kExitLate};
}

}  // namespace kvpack::cli
