// SPDX-License-Identifier: Apache-2.0
// kvpack version: what this program is made of.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/console.h"

namespace kvpack::cli {

struct VersionArguments {
  bool json = false;
};

std::string version_line();  // "kvpack 0.1.0"
void declare_version(CLI::App& verb, VersionArguments& arguments);
Result<int> run_version(const VersionArguments& arguments, Console& console);

}  // namespace kvpack::cli
