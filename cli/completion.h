// SPDX-License-Identifier: Apache-2.0
// kvpack completion: scripts that complete kvpack's verbs, options and their values in bash, zsh and fish. Made from
// the declared command line itself, so they cannot fall behind it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/console.h"

namespace kvpack::cli {

struct CompletionArguments {
  std::string shell;
  const CLI::App* program = nullptr;  // what to complete
};

void declare_completion(CLI::App& verb, CompletionArguments& arguments);
Result<int> run_completion(const CompletionArguments& arguments, Console& console);

}  // namespace kvpack::cli
