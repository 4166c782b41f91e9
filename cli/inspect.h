// SPDX-License-Identifier: Apache-2.0
// kvpack inspect: what an archive holds, from its directory and identity; no tile is read.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/console.h"
#include "cli/net_options.h"

namespace kvpack::cli {

struct InspectArguments {
  std::string input;
  bool layers = false;  // one line per layer and side instead of one per shape
  bool json = false;
  NetArguments net;
};

void declare_inspect(CLI::App& verb, InspectArguments& arguments);
Result<int> run_inspect(const InspectArguments& arguments, Console& console);

}  // namespace kvpack::cli
