// SPDX-License-Identifier: Apache-2.0
// kvpack model: what kvpack needs to know of a model, as a small JSON file that stands in for the model itself.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/console.h"

namespace kvpack::cli {

struct ModelArguments {
  std::string input;
  std::string output = "-";
  bool overwrite = false;
};

void declare_model(CLI::App& verb, ModelArguments& arguments);
Result<int> run_model(const ModelArguments& arguments, Console& console);

}  // namespace kvpack::cli
