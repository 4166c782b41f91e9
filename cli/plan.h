// SPDX-License-Identifier: Apache-2.0
// kvpack plan: what a fetch would do on a given link, from the archive's directory alone; other policies and the oracle
// beside it.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "cli/console.h"
#include "cli/net_options.h"

namespace kvpack::cli {

struct PlanArguments {
  std::string input;
  std::string trace;
  std::optional<double> bandwidth_bytes_per_s;
  std::optional<double> latency_s;
  std::optional<double> start_s;
  std::optional<double> scale_bytes_per_s;
  std::optional<double> ttft_s;
  std::optional<double> last_prefill_s;
  std::optional<double> prefill_tokens_per_s;
  std::optional<double> decode_bytes_per_s;
  std::string recompute = "needed";
  std::optional<double> blend_ratio;
  std::optional<double> blend_tokens_per_s;
  std::string plot;
  bool explain = false;
  bool overwrite = false;
  bool json = false;
  NetArguments net;
};

void declare_plan(CLI::App& verb, PlanArguments& arguments);
Result<int> run_plan(const PlanArguments& arguments, Console& console);

}  // namespace kvpack::cli
