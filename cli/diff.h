// SPDX-License-Identifier: Apache-2.0
// kvpack diff: how far two KV caches are apart, per layer and side.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/console.h"

namespace kvpack::cli {

struct DiffArguments {
  std::string first;
  std::string second;
  std::string model;    // "": none
  std::string profile;  // "": embedded, beside the model, or installed
  bool json = false;
};

void declare_diff(CLI::App& verb, DiffArguments& arguments);
Result<int> run_diff(const DiffArguments& arguments, Console& console);

}  // namespace kvpack::cli
