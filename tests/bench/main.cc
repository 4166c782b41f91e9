// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>

#include <cstdio>
#include <string_view>

#include "codec/kernels.h"
#include "tests/bench/bench_data.h"

// Google Benchmark's options, or --isas: the instruction sets that this machine can run, one a line.
int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--isas") {
    for (const kvpack::Kernels* kernels : kvpack::runnable_kernels()) {
      std::printf("%.*s\n", static_cast<int>(kernels->name.size()), kernels->name.data());
    }
    return 0;
  }
  // What the table names (report.py).
  benchmark::AddCustomContext("compiler", KVPACK_BENCH_COMPILER);
  const std::string path = kvpack::bench::sample_path();
  benchmark::AddCustomContext("data", path.substr(path.find_last_of('/') + 1));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
