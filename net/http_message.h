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

inline Error network_error(std::string message) { return {ErrorKind::kNetwork, std::move(message)}; }

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

// Header lines, one at a time as they arrive, into the head of the final response: interim ones (1xx) are passed over.
class HeadParser {
 public:
  static constexpr uint64_t kMaxBytes = 64 * 1024;  // lines of all heads and trailers of one response

  // `line` with its line break. True once the head is complete; later lines (trailers) are counted and dropped.
  // Errors: network for more than kMaxBytes, for what is no header, and for a Content-Length that is no number or
  // contradicts another.
  Result<bool> add(std::string_view line);
  bool complete() const { return complete_; }
  const HttpHead& head() const { return head_; }
  uint64_t bytes() const { return bytes_; }

 private:
  HttpHead head_;
  uint64_t bytes_ = 0;
  bool complete_ = false;
};

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
