// SPDX-License-Identifier: Apache-2.0
// kvpack bench: kvpack's qualities and published recipes on the same KV files, all bytes counted; with a model to ask,
// also by what each does to its predictions.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "cli/console.h"

namespace kvpack::cli {

struct BenchArguments {
  std::vector<std::string> inputs;
  std::string model;    // "": none
  std::string profile;  // "": looked for
  bool no_profile = false;
  std::string against = "all";
  std::vector<double> bits;        // own points besides the named qualities
  std::string engine;              // GGUF that predicts; "": none
  std::vector<std::string> texts;  // one per input
  uint32_t continuation = 512;
  std::string plot;    // SVG to write; "": none
  std::string output;  // JSON to write beside what is printed; "": none
  uint32_t threads = 0;
  bool overwrite = false;
  bool json = false;
  bool markdown = false;
};

void declare_bench(CLI::App& verb, BenchArguments& arguments);
Result<int> run_bench(const BenchArguments& arguments, Console& console);

}  // namespace kvpack::cli
