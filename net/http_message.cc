// SPDX-License-Identifier: Apache-2.0
#include "net/http_message.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <ctime>

namespace kvpack {
namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

bool is_token_character(char c) {  // RFC 9110, 5.6.2
  return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
         std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

// Seconds since 1970 of an IMF-fixdate ("Sun, 06 Nov 1994 08:49:37 GMT"), the only form that may be sent since 1999.
std::optional<int64_t> parse_http_date(std::string_view text) {
  constexpr std::string_view kMonths = "JanFebMarAprMayJunJulAugSepOctNovDec";
  if (text.size() != 29 || text.substr(3, 2) != ", " || text.substr(25) != " GMT") return std::nullopt;
  const auto day = parse_decimal(text.substr(5, 2));
  const size_t month = kMonths.find(text.substr(8, 3));
  const auto year = parse_decimal(text.substr(12, 4));
  const auto hour = parse_decimal(text.substr(17, 2));
  const auto minute = parse_decimal(text.substr(20, 2));
  const auto second = parse_decimal(text.substr(23, 2));
  if (!day || month == std::string_view::npos || month % 3 != 0 || !year || !hour || !minute || !second) {
    return std::nullopt;
  }
  std::tm time{};
  time.tm_mday = static_cast<int>(*day);
  time.tm_mon = static_cast<int>(month / 3);
  time.tm_year = static_cast<int>(*year) - 1900;
  time.tm_hour = static_cast<int>(*hour);
  time.tm_min = static_cast<int>(*minute);
  time.tm_sec = static_cast<int>(*second);
  return timegm(&time);
}

}  // namespace

std::optional<std::string_view> HttpHead::field(std::string_view name) const {
  for (const auto& [field_name, value] : fields) {
    if (field_name == name) return value;
  }
  return std::nullopt;
}

size_t HttpHead::count(std::string_view name) const {
  return static_cast<size_t>(
      std::count_if(fields.begin(), fields.end(), [name](const auto& field) { return field.first == name; }));
}

Result<bool> HeadParser::add(std::string_view line) {
  bytes_ += line.size();
  if (bytes_ > kMaxBytes) return network_error("the response's header is longer than 64 KiB");
  if (complete_) return true;
  line = line.substr(0, line.find_last_not_of("\r\n") + 1);
  if (head_.status == 0) {
    const auto status = parse_status_line(line);
    if (!status) return network_error("the response begins with no HTTP status line");
    head_.status = *status;
    return false;
  }
  if (!line.empty()) {
    auto field = parse_field(line);
    if (!field) return network_error("the response has a header line that is none");
    head_.fields.push_back(*std::move(field));
    return false;
  }
  if (head_.status < 200) {
    head_ = HttpHead{};
    return false;
  }
  const auto length = head_.field("content-length");
  for (const auto& [name, value] : head_.fields) {
    if (name != "content-length") continue;
    if (!parse_decimal(value)) return network_error("the response's Content-Length is no number");
    if (value != *length) return network_error("the response has two different Content-Lengths");
  }
  complete_ = true;
  return true;
}

std::optional<int> parse_status_line(std::string_view line) {
  if (line.substr(0, 5) != "HTTP/") return std::nullopt;
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || line.size() < space + 4) return std::nullopt;
  const auto status = parse_decimal(line.substr(space + 1, 3));
  if (!status || *status < 100) return std::nullopt;
  return static_cast<int>(*status);
}

std::optional<std::pair<std::string, std::string>> parse_field(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  std::string name(line.substr(0, colon));
  if (!std::all_of(name.begin(), name.end(), is_token_character)) return std::nullopt;
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::pair{std::move(name), std::string(trimmed(line.substr(colon + 1)))};
}

std::optional<uint64_t> parse_decimal(std::string_view text) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (text.empty() || error != std::errc() || stop != end) return std::nullopt;
  return number;
}

std::optional<ContentRange> parse_content_range(std::string_view value) {
  if (value.substr(0, 6) != "bytes ") return std::nullopt;
  const std::string_view range = trimmed(value.substr(6));
  const size_t slash = range.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  ContentRange content;
  const std::string_view total = range.substr(slash + 1);
  content.total = parse_decimal(total);
  if (!content.total && total != "*") return std::nullopt;
  if (range.substr(0, slash) == "*") {
    content.first = 1;  // an empty range: last < first
    return content;
  }
  const size_t dash = range.find('-');
  if (dash == std::string_view::npos || dash > slash) return std::nullopt;
  const auto first = parse_decimal(range.substr(0, dash));
  const auto last = parse_decimal(range.substr(dash + 1, slash - dash - 1));
  if (!first || !last || *last < *first) return std::nullopt;
  content.first = *first;
  content.last = *last;
  return content;
}

bool is_strong_etag(std::string_view etag) {
  return etag.size() >= 2 && etag.front() == '"' && etag.back() == '"' &&
         etag.substr(1, etag.size() - 2).find('"') == std::string_view::npos;
}

std::optional<double> parse_retry_after(std::string_view value, int64_t now_unix_s) {
  const bool all_digits = !value.empty() && value.find_first_not_of("0123456789") == std::string_view::npos;
  if (all_digits) {
    const auto seconds = parse_decimal(value);
    return seconds ? static_cast<double>(*seconds) : 1e20;  // too large to count is still a wait
  }
  const auto date = parse_http_date(value);
  if (!date) return std::nullopt;
  return static_cast<double>(std::max<int64_t>(0, *date - now_unix_s));
}

}  // namespace kvpack
