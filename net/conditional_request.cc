// SPDX-License-Identifier: Apache-2.0
#include "net/conditional_request.h"

#include <fmt/format.h>

#include <algorithm>

#include "net/http_message.h"

namespace kvpack {
namespace {

struct Range {
  uint64_t first = 0;
  uint64_t bytes = 0;
};
enum class RangeKind { kNone, kOne, kUnsatisfiable };

// One `bytes=` range of a file; anything else counts as none and is ignored.
RangeKind parse_range(std::string_view text, uint64_t file_bytes, Range* range) {
  if (text.substr(0, 6) != "bytes=" || text.find(',') != std::string_view::npos) return RangeKind::kNone;
  text.remove_prefix(6);
  const size_t dash = text.find('-');
  if (dash == std::string_view::npos) return RangeKind::kNone;
  const auto first = parse_decimal(text.substr(0, dash));
  const auto last = parse_decimal(text.substr(dash + 1));
  const bool last_given = dash + 1 < text.size();
  if (last_given && !last) return RangeKind::kNone;
  if (dash == 0) {  // the last N bytes
    if (!last) return RangeKind::kNone;
    if (*last == 0 || file_bytes == 0) return RangeKind::kUnsatisfiable;
    range->bytes = std::min(*last, file_bytes);
    range->first = file_bytes - range->bytes;
    return RangeKind::kOne;
  }
  if (!first || (last && *last < *first)) return RangeKind::kNone;
  if (*first >= file_bytes) return RangeKind::kUnsatisfiable;
  range->first = *first;
  range->bytes = std::min(last.value_or(file_bytes - 1), file_bytes - 1) - *first + 1;
  return RangeKind::kOne;
}

}  // namespace

bool etag_list_has(std::string_view list, std::string_view etag, bool allow_weak) {
  while (!list.empty()) {
    const size_t start = list.find_first_not_of(" \t,");
    if (start == std::string_view::npos) return false;
    list.remove_prefix(start);
    if (list.front() == '*') return true;
    const bool weak = list.substr(0, 2) == "W/";
    if (weak) list.remove_prefix(2);
    const size_t end = list.empty() || list.front() != '"' ? std::string_view::npos : list.find('"', 1);
    if (end == std::string_view::npos) return false;  // no entity tag
    if (list.substr(0, end + 1) == etag && (allow_weak || !weak)) return true;
    list.remove_prefix(end + 1);
  }
  return false;
}

FileAnswer answer_for_file(const ConditionalHeaders& headers, uint64_t file_bytes, std::string_view etag) {
  if (!headers.if_match.empty() && !etag_list_has(headers.if_match, etag, false)) return {412, 0, 0, ""};
  if (!headers.if_none_match.empty() && etag_list_has(headers.if_none_match, etag, true)) return {304, 0, 0, ""};
  const bool range_applies = headers.if_range.empty() || headers.if_range == etag;
  Range range;
  const RangeKind kind = range_applies ? parse_range(headers.range, file_bytes, &range) : RangeKind::kNone;
  if (kind == RangeKind::kUnsatisfiable) return {416, 0, 0, fmt::format("bytes */{}", file_bytes)};
  if (kind == RangeKind::kNone) return {200, 0, file_bytes, ""};
  return {206, range.first, range.bytes,
          fmt::format("bytes {}-{}/{}", range.first, range.first + range.bytes - 1, file_bytes)};
}

}  // namespace kvpack
