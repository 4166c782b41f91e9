// SPDX-License-Identifier: Apache-2.0
#include "formats/result.h"

namespace kvpack {

std::string_view error_kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return "invalid argument";
    case ErrorKind::kNotKvpack:
      return "not a .kvp archive";
    case ErrorKind::kUnsupported:
      return "unsupported";
    case ErrorKind::kCorrupt:
      return "corrupt";
    case ErrorKind::kTruncated:
      return "truncated";
    case ErrorKind::kLimit:
      return "limit exceeded";
    case ErrorKind::kIo:
      return "I/O error";
    case ErrorKind::kNetwork:
      return "network error";
  }
  return "error";
}

}  // namespace kvpack
