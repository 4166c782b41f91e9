// SPDX-License-Identifier: Apache-2.0
// What bench prints: one table of means over the files, one of bits at given losses, or everything as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/bench_methods.h"
#include "cli/console.h"

namespace kvpack::cli {

struct BenchRun {
  unsigned threads = 1;
  uint32_t continuation = 0;  // tokens that a model was asked about; 0: none was
  std::vector<std::string> files;
  std::vector<std::vector<BenchPoint>> points;  // [file][method], the same methods for all
};

// Losses (KL) at which families are compared.
inline constexpr double kComparedKl[] = {0.002, 0.005, 0.02};

void print_bench(const BenchRun& run, bool markdown, const Console& console);
nlohmann::ordered_json json_of(const BenchRun& run);

}  // namespace kvpack::cli
