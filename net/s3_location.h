// SPDX-License-Identifier: Apache-2.0
// s3://bucket/key as an http(s) URL: endpoint, region, virtual-host or path style, percent-encoded key.
#pragma once

#include <string>

#include "net/s3_credentials.h"

namespace kvpack {

enum class S3Addressing {
  kAuto,         // virtual-host style at AWS, path style at any other endpoint
  kVirtualHost,  // https://bucket.endpoint/key
  kPath,         // https://endpoint/bucket/key
};

struct S3Options {
  std::string endpoint;  // "https://host:port"; empty: $AWS_ENDPOINT_URL_S3, $AWS_ENDPOINT_URL, AWS's own
  std::string region;    // empty: $AWS_REGION, $AWS_DEFAULT_REGION, the profile's, us-east-1
  std::string profile;   // empty: $AWS_PROFILE, "default"
  S3Addressing addressing = S3Addressing::kAuto;
  bool anonymous = false;  // send no signature even if there are credentials
};

struct S3Location {
  std::string bucket;
  std::string key;  // not encoded
  std::string url;  // http(s), encoded
  std::string region;
  S3Credentials credentials;  // empty: unsigned requests
};

// Errors: invalid_argument for a location without bucket or key, and for an endpoint that is no http(s) URL.
Result<S3Location> resolve_s3(const std::string& location, const S3Options& options);

}  // namespace kvpack
