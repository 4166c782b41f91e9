// SPDX-License-Identifier: Apache-2.0
// What the program's exit status means. The README documents these numbers; they do not change.
#pragma once

#include <span>
#include <string_view>

#include "formats/result.h"

namespace kvpack::cli {

enum ExitCode : int {
  kExitOk = 0,
  kExitOther = 1,
  kExitUsage = 2,
  kExitLate = 3,  // plan, fetch, load: after the deadline, or not everything came
  kExitNotKvpack = 10,
  kExitUnsupported = 11,
  kExitCorrupt = 12,  // truncated too
  kExitLimit = 13,    // larger than the limits or than the memory
  kExitNetwork = 20,
  kExitIo = 30,
  // 130, 143: ended by SIGINT, SIGTERM, as a shell reports it.
};

ExitCode exit_code_of(ErrorKind kind);

// For people: the table of the manual page.
struct ExitMeaning {
  std::string_view codes;
  std::string_view meaning;
};
std::span<const ExitMeaning> exit_meanings();

}  // namespace kvpack::cli
