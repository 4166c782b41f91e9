// SPDX-License-Identifier: Apache-2.0
// kvpack push: an archive to a web server or object store.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/console.h"
#include "cli/net_options.h"

namespace kvpack::cli {

struct PushArguments {
  std::string input;
  std::string url;
  bool overwrite = false;
  uint64_t part_mib = 16;
  NetArguments net;
};

void declare_push(CLI::App& verb, PushArguments& arguments);
Result<int> run_push(const PushArguments& arguments, Console& console);

}  // namespace kvpack::cli
