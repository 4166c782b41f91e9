// SPDX-License-Identifier: Apache-2.0
// Credentials as AWS's tools find them: environment, then ~/.aws/credentials and ~/.aws/config.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "formats/result.h"

namespace kvpack {

struct S3Credentials {
  std::string access_key;
  std::string secret_key;
  std::string session_token;
  bool empty() const { return access_key.empty(); }
};

// "[section]" and "key = value" lines, as in ~/.aws/credentials: section -> key -> value. What is neither is skipped.
using IniSections = std::map<std::string, std::map<std::string, std::string>, std::less<>>;
IniSections parse_ini(std::string_view text);

struct S3Environment {
  S3Credentials credentials;
  std::string region;
};
// $AWS_ACCESS_KEY_ID, $AWS_SECRET_ACCESS_KEY, $AWS_SESSION_TOKEN, else the profile in $AWS_SHARED_CREDENTIALS_FILE
// (~/.aws/credentials) and $AWS_CONFIG_FILE (~/.aws/config). `profile` empty: $AWS_PROFILE or "default".
// Errors: invalid_argument if a profile that was asked for does not exist, or a key comes without its secret.
Result<S3Environment> read_s3_environment(const std::string& profile);

}  // namespace kvpack
