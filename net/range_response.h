// SPDX-License-Identifier: Apache-2.0
// Whether a response answers a range request, judged by its head before any byte of its body is accepted. libcurl
// judges nothing: a 200 with the whole file, another range, gzip and multipart all come back from it as success. Pure:
// heads in, verdicts out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "formats/result.h"
#include "net/http_message.h"

namespace kvpack {

struct ExpectedRange {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  std::optional<uint64_t> total;  // the archive's size; unknown when opening: then a shorter range is right if the
                                  // archive ends with it
  std::string etag;               // strong, or empty: unknown
};

enum class RangeVerdict {
  kAccept,
  kReplaced,  // another version of the archive
  kLater,     // the server asks to try again
  kRefuse,
};

struct RangeJudgement {
  RangeVerdict verdict = RangeVerdict::kRefuse;
  Status status;                        // why not, unless kAccept
  uint64_t bytes = 0;                   // kAccept: what the body has to have
  uint64_t total = 0;                   // kAccept
  std::string etag;                     // kAccept: strong, or empty
  std::optional<double> retry_after_s;  // kLater
};

RangeJudgement judge_range_response(const HttpHead& head, const ExpectedRange& expected);

// "bytes=0-65535"
std::string range_header(uint64_t offset, uint64_t bytes);
// "503 Service Unavailable", with what S3 adds where there is something.
std::string status_text(const HttpHead& head);

}  // namespace kvpack
