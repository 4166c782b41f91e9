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

}  // namespace kvpack::cli
