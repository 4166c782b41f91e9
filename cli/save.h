// SPDX-License-Identifier: Apache-2.0
// kvpack save: what a slot of a running engine holds becomes an archive.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/console.h"
#include "cli/encode.h"
#include "cli/engine_options.h"

namespace kvpack::cli {

struct SaveArguments {
  EngineArguments engine;
  std::string range;  // "A:B", positions; "": all that the slot holds
  EncodeArguments encode;
};

void declare_save(CLI::App& verb, SaveArguments& arguments);
Result<int> run_save(const SaveArguments& arguments, Console& console);

}  // namespace kvpack::cli
