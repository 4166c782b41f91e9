// SPDX-License-Identifier: Apache-2.0
#include "net/url.h"

#include <algorithm>
#include <charconv>

namespace kvpack {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool begins_with(std::string_view text, std::string_view lower_case_prefix) {
  return text.size() >= lower_case_prefix.size() &&
         std::equal(lower_case_prefix.begin(), lower_case_prefix.end(), text.begin(),
                    [](char expected, char found) { return expected == lower(found); });
}

bool is_unreserved(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
         c == '.' || c == '~';
}

}  // namespace

Status check_redirect(const Url& from, const Url& to) {
  if (from.scheme == "https" && to.scheme != "https") {
    return Error{ErrorKind::kNetwork, "redirected from https to unprotected " + origin_of(to) + ", not followed"};
  }
  return {};
}

bool is_same_host(const Url& a, const Url& b) { return origin_of(a) == origin_of(b); }

std::string origin_of(const Url& url) {
  return url.scheme + "://" + url.host + (url.has_default_port ? "" : ":" + url.port);
}

std::string printable_url(std::string_view url) {
  std::string text(url.substr(0, url.find_first_of("?#")));
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
  // user:password@, which parse_url refuses, but the refusal names the URL.
  const size_t authority = text.find("://");
  if (authority == std::string::npos) return text;
  const size_t path = std::min(text.find('/', authority + 3), text.size());
  const size_t at = text.rfind('@', path);
  if (at != std::string::npos && at > authority) text.erase(authority + 3, at - authority - 2);
  return text;
}

std::string percent_encode(std::string_view text, bool keep_slash) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : text) {
    if (is_unreserved(c) || (keep_slash && c == '/')) {
      encoded += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      encoded += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return encoded;
}

std::optional<std::string> percent_decode(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    unsigned byte = 0;
    if (i + 2 >= text.size()) return std::nullopt;
    const char* end = text.data() + i + 3;
    if (std::from_chars(text.data() + i + 1, end, byte, 16).ptr != end) return std::nullopt;
    decoded += static_cast<char>(byte);
    i += 2;
  }
  return decoded;
}

bool is_http_url(std::string_view location) {
  return begins_with(location, "http://") || begins_with(location, "https://");
}
bool is_s3_url(std::string_view location) { return begins_with(location, "s3://"); }
bool is_file_url(std::string_view location) { return begins_with(location, "file://"); }

}  // namespace kvpack
