// SPDX-License-Identifier: Apache-2.0
#include "cli/exit_code.h"

namespace kvpack::cli {

ExitCode exit_code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return kExitUsage;
    case ErrorKind::kNotKvpack:
      return kExitNotKvpack;
    case ErrorKind::kUnsupported:
      return kExitUnsupported;
    case ErrorKind::kCorrupt:
    case ErrorKind::kTruncated:
      return kExitCorrupt;
    case ErrorKind::kLimit:
      return kExitLimit;
    case ErrorKind::kNetwork:
      return kExitNetwork;
    case ErrorKind::kIo:
      return kExitIo;
  }
  return kExitOther;
}

std::span<const ExitMeaning> exit_meanings() {
  static constexpr ExitMeaning kMeanings[] = {
      {"0", "done"},
      {"1", "another failure"},
      {"2", "wrong usage, or input that does not fit the options"},
      {"10", "not a .kvp archive"},
      {"11", "an unsupported format, version or feature; the message names it"},
      {"12", "corrupt or truncated"},
      {"13", "beyond kvpack's limits or the memory there is"},
      {"20", "the network or a server"},
      {"30", "a local file cannot be read or written"},
      {"130, 143", "ended by SIGINT or SIGTERM"},
  };
  return kMeanings;
}

}  // namespace kvpack::cli
