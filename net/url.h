// SPDX-License-Identifier: Apache-2.0
// URLs: parts, percent-encoding (RFC 3986), where a redirect may lead, and what of them may be printed.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "formats/result.h"

namespace kvpack {

struct Url {
  std::string scheme;  // "http" or "https"
  std::string host;    // lower case; IPv6 in brackets
  std::string port;    // always there, the scheme's own if none is written
  std::string path;    // percent-encoded, begins with '/'
  std::string query;   // without '?'; percent-encoded
  bool has_default_port = true;
};

// Errors: invalid_argument for anything but a well-formed http(s) URL, and for user:password@ (a netrc or an option is
// the place for it: URLs end up in logs). Implemented in http_client.cc: libcurl's own parser, so that what is checked
// here is what is connected to.
Result<Url> parse_url(const std::string& url);

// Whether a redirect may be followed. Errors: network for https to http.
Status check_redirect(const Url& from, const Url& to);
bool is_same_host(const Url& a, const Url& b);  // scheme and port too

// "https://host:port", the port only where it is not the scheme's own.
std::string origin_of(const Url& url);
// The URL without its query (a presigned URL's is a password) and without control characters, for messages.
std::string printable_url(std::string_view url);

// Unreserved characters (RFC 3986, 2.3) stay, all others become %XX; '/' stays if `keep_slash`.
std::string percent_encode(std::string_view text, bool keep_slash = false);
// The reverse; nullopt for a '%' without two hexadecimal digits.
std::optional<std::string> percent_decode(std::string_view text);

// Whether `location` begins with "http://" or "https://" / "s3://" / "file://" (any case).
bool is_http_url(std::string_view location);
bool is_s3_url(std::string_view location);
bool is_file_url(std::string_view location);

}  // namespace kvpack
