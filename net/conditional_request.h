// SPDX-License-Identifier: Apache-2.0
// What a server owes a GET for a file with a known size and ETag: preconditions and ranges (RFC 9110, sections 13, 14).
// Pure: header values in, an answer out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kvpack {

struct ConditionalHeaders {  // empty: not sent
  std::string if_match;
  std::string if_none_match;
  std::string if_range;
  std::string range;
};

struct FileAnswer {
  int status = 200;  // 200, 206, 304, 412, 416
  uint64_t first = 0;
  uint64_t bytes = 0;         // of the body
  std::string content_range;  // of a 206 or 416
};

// Several ranges at once are answered with the whole file, as RFC 9110 allows.
FileAnswer answer_for_file(const ConditionalHeaders& headers, uint64_t file_bytes, std::string_view etag);

// Whether a list of entity tags ("*" too) holds `etag`; weak ones only match if `allow_weak`.
bool etag_list_has(std::string_view list, std::string_view etag, bool allow_weak);

}  // namespace kvpack
