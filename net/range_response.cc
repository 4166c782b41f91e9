// SPDX-License-Identifier: Apache-2.0
#include "net/range_response.h"

#include <fmt/format.h>

#include <ctime>

#include "net/retry.h"

namespace kvpack {
namespace {

std::string_view reason_of(int status) {
  switch (status) {
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized: credentials are needed, or wrong";
    case 403:
      return "Forbidden: no permission, or a signature that is wrong or has expired";
    case 404:
      return "Not Found";
    case 407:
      return "Proxy Authentication Required";
    case 410:
      return "Gone";
    case 412:
      return "Precondition Failed";
    case 416:
      return "Range Not Satisfiable";
    case 429:
      return "Too Many Requests";
    case 500:
      return "Internal Server Error";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "";
  }
}

RangeJudgement refuse(std::string why) { return {RangeVerdict::kRefuse, network_error(std::move(why)), 0, 0, "", {}}; }
RangeJudgement replaced(std::string why) {
  return {
      RangeVerdict::kReplaced, network_error("the archive was replaced meanwhile: " + std::move(why)), 0, 0, "", {}};
}

RangeJudgement judge_whole_body(const HttpHead& head) {
  const std::string type(head.field("content-type").value_or("").substr(0, 9));
  if (type == "text/html") {
    return refuse("got a web page instead of the archive (200, text/html): a login page or captive portal?");
  }
  return refuse("got the whole file for a range (200 instead of 206): the server or a proxy does not support ranges");
}

RangeJudgement judge_error(const HttpHead& head, const ExpectedRange& expected) {
  const std::string found = "the server says " + status_text(head);
  if (is_retryable_status(head.status)) {
    RangeJudgement later{RangeVerdict::kLater, network_error(found), 0, 0, "", {}};
    if (const auto after = head.field("retry-after"))
      later.retry_after_s = parse_retry_after(*after, std::time(nullptr));
    return later;
  }
  if (head.status == 412 && !expected.etag.empty()) return replaced(found);
  if (head.status == 416) {
    const auto content = parse_content_range(head.field("content-range").value_or(""));
    const bool other_size = content && content->total && expected.total && *content->total != *expected.total;
    if (other_size) return replaced(fmt::format("{} bytes, was {}", *content->total, *expected.total));
    if (content && content->total == 0u) return refuse("the file is empty");
  }
  return refuse(found);
}

// Of a 206, what is not about its range.
Status check_partial_head(const HttpHead& head) {
  for (const auto& [name, value] : head.fields) {
    if (name == "content-encoding" && value != "identity") {
      return network_error(fmt::format("the server encoded the range ({}) though asked not to", value));
    }
    if (name == "content-type" && value.substr(0, 10) == "multipart/") {
      return network_error("got a multipart response for a single range");
    }
  }
  if (head.count("content-range") == 1) return {};
  return network_error(fmt::format("206 with {} Content-Range headers, expected one", head.count("content-range")));
}

RangeJudgement judge_partial(const HttpHead& head, const ExpectedRange& expected) {
  if (const Status status = check_partial_head(head); !status.ok()) return refuse(status.error().message);
  const std::string_view value = *head.field("content-range");
  const auto content = parse_content_range(value);
  if (!content || content->last < content->first) return refuse(fmt::format("Content-Range '{}' is none", value));
  if (!content->total) return refuse(fmt::format("Content-Range '{}' does not tell the size", value));
  if (content->last >= *content->total) return refuse(fmt::format("Content-Range '{}' contradicts itself", value));

  const std::string_view found_etag = head.field("etag").value_or("");
  if (expected.total && *content->total != *expected.total) {
    return replaced(fmt::format("{} bytes, was {}", *content->total, *expected.total));
  }
  if (!expected.etag.empty() && found_etag != expected.etag) {
    return found_etag.empty() ? refuse("206 without the ETag that the archive was opened with")
                              : replaced(fmt::format("ETag {}, was {}", found_etag, expected.etag));
  }
  const uint64_t last = std::min(expected.offset + expected.bytes, *content->total) - 1;
  const bool right = content->first == expected.offset && content->last == last &&
                     (!expected.total || last == expected.offset + expected.bytes - 1);
  if (!right) {
    return refuse(fmt::format("got range {}, asked for {}", value, range_header(expected.offset, expected.bytes)));
  }
  const uint64_t bytes = last - expected.offset + 1;
  const auto length = head.field("content-length");
  if (length && parse_decimal(*length) != bytes) {
    return refuse(fmt::format("Content-Length {} for a range of {} bytes", *length, bytes));
  }
  return {
      RangeVerdict::kAccept, {}, bytes, *content->total, is_strong_etag(found_etag) ? std::string(found_etag) : "", {}};
}

}  // namespace

RangeJudgement judge_range_response(const HttpHead& head, const ExpectedRange& expected) {
  if (head.status == 206) return judge_partial(head, expected);
  if (head.status == 200) return judge_whole_body(head);
  return judge_error(head, expected);
}

std::string range_header(uint64_t offset, uint64_t bytes) {
  return fmt::format("bytes={}-{}", offset, offset + bytes - 1);
}

std::string status_text(const HttpHead& head) {
  std::string text = fmt::format("{} {}", head.status, reason_of(head.status));
  while (text.ends_with(' ')) text.pop_back();
  const bool can_be_region = head.status == 301 || head.status == 307 || head.status == 400 || head.status == 403;
  const auto region = head.field("x-amz-bucket-region");
  if (can_be_region && region) text += fmt::format(" (the bucket is in region {})", *region);
  return text;
}

}  // namespace kvpack
