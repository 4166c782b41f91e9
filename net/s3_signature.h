// SPDX-License-Identifier: Apache-2.0
// AWS Signature Version 4 for S3 (AWS, "Authenticating Requests: Using the Authorization Header"), with libcrypto's
// HMAC-SHA256. libcurl's CURLOPT_AWS_SIGV4 is not used: 7.88 neither orders the query nor writes "uploads=" for
// "uploads", sends no x-amz-content-sha256, and later versions encode paths again that are encoded already.
#pragma once

#include <ctime>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "formats/bytes.h"
#include "net/s3_location.h"
#include "net/url.h"

namespace kvpack {

// The payload hash of a request without a body.
inline constexpr const char* kEmptySha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
// SHA-256 as 64 lower-case hexadecimal digits.
std::string sha256_hex(ByteSpan bytes);

struct S3SignedRequest {
  std::string method;
  Url url;                                                   // path and query percent-encoded, as they are sent
  std::vector<std::pair<std::string, std::string>> headers;  // to sign: lower-case name, value; host is added
  std::string payload_sha256;
  std::string timestamp;  // "20130524T000000Z"
};

// The value of the Authorization header.
std::string s3_authorization(const S3SignedRequest& request, const S3Credentials& credentials,
                             const std::string& region);
std::string s3_timestamp(std::time_t now);

// For HttpRequest::authorize: adds x-amz-date, x-amz-content-sha256, x-amz-security-token and Authorization, and signs
// them with every x-amz- header already there. Empty if there are no credentials: the request goes out unsigned.
std::function<Status(const std::string& url, std::vector<std::string>& headers)> s3_authorizer(
    std::string method, const S3Location& location, std::string payload_sha256);

}  // namespace kvpack
