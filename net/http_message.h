// SPDX-License-Identifier: Apache-2.0
// The head of an HTTP response as far as kvpack reads it (RFC 9110, 9112). Pure: text in, values out, no I/O.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/result.h"

namespace kvpack {

struct HttpHead {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> fields;  // names in lower case, values trimmed, in order

  // The first field of that name (lower case), or nullopt.
  std::optional<std::string_view> field(std::string_view name) const;
  size_t count(std::string_view name) const;
};

// A status line such as "HTTP/1.1 206 Partial Content" or "HTTP/2 206"; nullopt if it is none.
std::optional<int> parse_status_line(std::string_view line);
// "Name: value"; nullopt if it is no field. Folded lines (obsolete, RFC 9112 5.2) are none.
std::optional<std::pair<std::string, std::string>> parse_field(std::string_view line);

// `Content-Range: bytes FIRST-LAST/TOTAL`, or `bytes */TOTAL` of a 416 (then `last` < `first`).
struct ContentRange {
  uint64_t first = 0;
  uint64_t last = 0;              // inclusive
  std::optional<uint64_t> total;  // absent for '*'
};
std::optional<ContentRange> parse_content_range(std::string_view value);

// Decimal digits only, no sign; nullopt on anything else and on overflow.
std::optional<uint64_t> parse_decimal(std::string_view text);

// A strong entity tag: quoted, without W/.
bool is_strong_etag(std::string_view etag);

// `Retry-After` in seconds, from a number or an HTTP date (`now` in seconds since 1970); nullopt if it is neither.
std::optional<double> parse_retry_after(std::string_view value, int64_t now_unix_s);

}  // namespace kvpack
