// SPDX-License-Identifier: Apache-2.0
// kvpack verify: is an archive whole? The exit code tells.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/console.h"
#include "cli/net_options.h"

namespace kvpack::cli {

struct VerifyArguments {
  std::vector<std::string> inputs;
  std::string profile;  // "": embedded, beside the model, or installed
  std::string model;    // "": none; only to look beside it
  bool fast = false;  // checksums only, nothing is decoded
  bool json = false;
  NetArguments net;
};

void declare_verify(CLI::App& verb, VerifyArguments& arguments);
// All archives are looked at; the exit code is that of the first bad one.
Result<int> run_verify(const VerifyArguments& arguments, Console& console);

}  // namespace kvpack::cli
