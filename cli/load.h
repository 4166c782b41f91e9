// SPDX-License-Identifier: Apache-2.0
// kvpack load: a context goes from an archive, wherever that lies, into a slot of a running engine.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/console.h"
#include "cli/fetch.h"

namespace kvpack::cli {

struct LoadArguments {
  FetchArguments fetch;
  std::string then;  // file with the text after the context; "": none
  bool convert = false;
  bool trust_model = false;
};

void declare_load(CLI::App& verb, LoadArguments& arguments);
Result<int> run_load(const LoadArguments& arguments, Console& console);

}  // namespace kvpack::cli
