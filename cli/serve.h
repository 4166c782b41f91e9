// SPDX-License-Identifier: Apache-2.0
// kvpack serve: a folder of archives over HTTP, until SIGINT or SIGTERM.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/console.h"

namespace kvpack::cli {

struct ServeArguments {
  std::string folder;
  std::string bind = "127.0.0.1";
  int port = 8100;
  std::string token;
};

void declare_serve(CLI::App& verb, ServeArguments& arguments);
Result<int> run_serve(const ServeArguments& arguments, Console& console);

}  // namespace kvpack::cli
