// SPDX-License-Identifier: Apache-2.0
#include "net/s3_signature.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>

#include "net/http_message.h"

namespace kvpack {
namespace {

constexpr const char* kAlgorithm = "AWS4-HMAC-SHA256";

std::string hex_of(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

std::string hmac_sha256(std::string_view key, std::string_view text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(text.data()),
       text.size(), digest.data(), &length);
  return {reinterpret_cast<const char*>(digest.data()), length};
}

// Parameters in order, each with its '='.
std::string canonical_query(std::string_view query) {
  std::vector<std::pair<std::string, std::string>> parameters;
  while (!query.empty()) {
    const std::string_view parameter = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(parameter.size() + 1, query.size()));
    if (parameter.empty()) continue;
    const size_t equals = std::min(parameter.find('='), parameter.size());
    parameters.emplace_back(parameter.substr(0, equals), parameter.substr(std::min(equals + 1, parameter.size())));
  }
  std::sort(parameters.begin(), parameters.end());
  std::string text;
  for (const auto& [name, value] : parameters) text += (text.empty() ? "" : "&") + name + "=" + value;
  return text;
}

}  // namespace

std::string sha256_hex(ByteSpan bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest.data(), &length, EVP_sha256(), nullptr);
  return hex_of({reinterpret_cast<const char*>(digest.data()), length});
}

std::string s3_timestamp(std::time_t now) {
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 20> text{};
  std::strftime(text.data(), text.size(), "%Y%m%dT%H%M%SZ", &utc);
  return text.data();
}

std::string s3_authorization(const S3SignedRequest& request, const S3Credentials& credentials,
                             const std::string& region) {
  auto headers = request.headers;
  headers.emplace_back("host", origin_of(request.url).substr(request.url.scheme.size() + 3));
  std::sort(headers.begin(), headers.end());
  std::string header_lines;
  std::string signed_headers;
  for (const auto& [name, value] : headers) {
    header_lines += name + ":" + value + "\n";
    signed_headers += (signed_headers.empty() ? "" : ";") + name;
  }
  const std::string canonical_request =
      fmt::format("{}\n{}\n{}\n{}\n{}\n{}", request.method, request.url.path, canonical_query(request.url.query),
                  header_lines, signed_headers, request.payload_sha256);

  const std::string date = request.timestamp.substr(0, 8);
  const std::string scope = fmt::format("{}/{}/s3/aws4_request", date, region);
  const std::string to_sign =
      fmt::format("{}\n{}\n{}\n{}", kAlgorithm, request.timestamp, scope, sha256_hex(as_byte_span(canonical_request)));
  const std::string date_key = hmac_sha256("AWS4" + credentials.secret_key, date);
  const std::string signing_key = hmac_sha256(hmac_sha256(hmac_sha256(date_key, region), "s3"), "aws4_request");
  return fmt::format("{} Credential={}/{},SignedHeaders={},Signature={}", kAlgorithm, credentials.access_key, scope,
                     signed_headers, hex_of(hmac_sha256(signing_key, to_sign)));
}

std::function<Status(const std::string& url, std::vector<std::string>& headers)> s3_authorizer(
    std::string method, const S3Location& location, std::string payload_sha256) {
  if (location.credentials.empty()) return {};
  return [method = std::move(method), credentials = location.credentials, region = location.region,
          payload = std::move(payload_sha256)](const std::string& url, std::vector<std::string>& lines) -> Status {
    S3SignedRequest request;
    request.method = method;
    KVPACK_ASSIGN_OR_RETURN(request.url, parse_url(url));
    request.payload_sha256 = payload;
    request.timestamp = s3_timestamp(std::time(nullptr));
    lines.push_back("x-amz-date: " + request.timestamp);
    lines.push_back("x-amz-content-sha256: " + payload);
    if (!credentials.session_token.empty()) lines.push_back("x-amz-security-token: " + credentials.session_token);
    for (const std::string& line : lines) {
      auto field = parse_field(line);
      if (field && field->first.starts_with("x-amz-")) request.headers.push_back(*std::move(field));
    }
    lines.push_back("Authorization: " + s3_authorization(request, credentials, region));
    return {};
  };
}

}  // namespace kvpack
