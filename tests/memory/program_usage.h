// SPDX-License-Identifier: Apache-2.0
// A program's run, and what it took.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/result.h"

namespace kvpack::test {

struct ProgramUsage {
  double seconds = 0;
  double cpu_seconds = 0;
  uint64_t peak_bytes = 0;  // largest resident set, mapped files included
};

// Runs arguments[0] with its standard streams; io unless it ends with 0. The peak counts from the fork on, so this
// process must be small.
Result<ProgramUsage> run_program(const std::vector<std::string>& arguments);

}  // namespace kvpack::test
