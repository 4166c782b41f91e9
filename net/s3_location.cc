// SPDX-License-Identifier: Apache-2.0
#include "net/s3_location.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "net/url.h"

namespace kvpack {
namespace {

std::string endpoint_from_environment() {
  for (const char* name : {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') return value;
  }
  return "";
}

bool is_bucket_name(std::string_view name) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
  return !name.empty() && name.size() <= 255 && name.find_first_not_of(kAllowed) == std::string_view::npos &&
         name.front() != '.' && name.find("..") == std::string_view::npos;
}

// URL libraries and proxies resolve "." and "..", so such a key would be another one on the way.
bool has_dot_segment(std::string_view key) {
  const std::string path = "/" + std::string(key) + "/";
  return path.find("/./") != std::string::npos || path.find("/../") != std::string::npos;
}

Status check_region(const std::string& region) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
  if (region.find_first_not_of(kAllowed) == std::string::npos) return {};
  return invalid_argument("the S3 region has characters that no region has");
}

}  // namespace

Result<S3Location> resolve_s3(const std::string& location, const S3Options& options) {
  S3Location s3;
  const std::string_view rest = std::string_view(location).substr(5);  // after "s3://"
  const size_t slash = rest.find('/');
  s3.bucket = rest.substr(0, slash);
  if (slash != std::string_view::npos) s3.key = rest.substr(slash + 1);
  if (!is_bucket_name(s3.bucket) || s3.key.empty()) {
    return invalid_argument(fmt::format("{}: expected s3://BUCKET/KEY", location));
  }
  if (has_dot_segment(s3.key)) return invalid_argument(fmt::format("{}: a key with '.' or '..' in it", location));

  KVPACK_ASSIGN_OR_RETURN(S3Environment environment, read_s3_environment(options.profile));
  s3.region = !options.region.empty() ? options.region : environment.region;
  if (s3.region.empty()) s3.region = "us-east-1";
  KVPACK_RETURN_IF_ERROR(check_region(s3.region));
  if (!options.anonymous) s3.credentials = environment.credentials;

  std::string endpoint = options.endpoint.empty() ? endpoint_from_environment() : options.endpoint;
  const bool at_aws = endpoint.empty();
  if (at_aws) endpoint = fmt::format("https://s3.{}.amazonaws.com", s3.region);
  const auto parsed = parse_url(endpoint);
  if (!parsed.ok()) return parsed.error().within("S3 endpoint");
  if (parsed->path != "/" || !parsed->query.empty()) {
    return invalid_argument(fmt::format("S3 endpoint {}: expected only https://HOST[:PORT]", printable_url(endpoint)));
  }
  // A dot in the bucket's name would not match the certificate's wildcard.
  const bool fits_in_host = s3.bucket.find_first_of("._") == std::string::npos;
  const bool virtual_host = options.addressing == S3Addressing::kVirtualHost ||
                            (options.addressing == S3Addressing::kAuto && at_aws && fits_in_host);
  const std::string origin = origin_of(*parsed);
  const std::string key = percent_encode(s3.key, true);
  s3.url = virtual_host
               ? fmt::format("{}://{}.{}/{}", parsed->scheme, s3.bucket, origin.substr(parsed->scheme.size() + 3), key)
               : fmt::format("{}/{}/{}", origin, s3.bucket, key);
  return s3;
}

}  // namespace kvpack
