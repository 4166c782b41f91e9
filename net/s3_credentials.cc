// SPDX-License-Identifier: Apache-2.0
#include "net/s3_credentials.h"

#include <fmt/format.h>

#include <cstdlib>

#include "formats/byte_io.h"

namespace kvpack {
namespace {

constexpr uint64_t kMaxIniBytes = 1 << 20;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// An empty file for one that is not there.
IniSections read_ini(const char* path_variable, std::string_view path_at_home) {
  std::string path = variable(path_variable);
  if (path.empty()) path = variable("HOME") + std::string(path_at_home);
  const Result<Bytes> text = read_whole_file(path, kMaxIniBytes);
  return text.ok() ? parse_ini(as_text(*text)) : IniSections();
}

std::string value_of(const IniSections& sections, const std::string& section, const char* key) {
  const auto found = sections.find(section);
  if (found == sections.end()) return "";
  const auto value = found->second.find(key);
  return value == found->second.end() ? "" : value->second;
}

}  // namespace

IniSections parse_ini(std::string_view text) {
  IniSections sections;
  std::string section;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    line = trimmed(line);
    if (line.empty() || line.front() == '#' || line.front() == ';') continue;
    if (line.front() == '[' && line.back() == ']') {
      section = trimmed(line.substr(1, line.size() - 2));
      sections[section];
    } else if (const size_t equals = line.find('='); equals != std::string_view::npos) {
      sections[section][std::string(trimmed(line.substr(0, equals)))] = trimmed(line.substr(equals + 1));
    }
  }
  return sections;
}

Result<S3Environment> read_s3_environment(const std::string& profile_option) {
  S3Environment environment;
  std::string profile = profile_option.empty() ? variable("AWS_PROFILE") : profile_option;
  const bool profile_asked = !profile.empty();
  if (!profile_asked) profile = "default";
  const IniSections credentials = read_ini("AWS_SHARED_CREDENTIALS_FILE", "/.aws/credentials");
  const IniSections config = read_ini("AWS_CONFIG_FILE", "/.aws/config");
  const std::string config_section = profile == "default" ? profile : "profile " + profile;
  if (profile_asked && !credentials.contains(profile) && !config.contains(config_section)) {
    return invalid_argument(fmt::format("no AWS profile '{}' in ~/.aws/credentials or ~/.aws/config", profile));
  }

  S3Credentials& keys = environment.credentials;
  if (profile_option.empty()) {  // a profile named by option goes before the environment
    keys.access_key = variable("AWS_ACCESS_KEY_ID");
    keys.secret_key = variable("AWS_SECRET_ACCESS_KEY");
    keys.session_token = variable("AWS_SESSION_TOKEN");
  }
  if (keys.access_key.empty()) {
    keys.access_key = value_of(credentials, profile, "aws_access_key_id");
    keys.secret_key = value_of(credentials, profile, "aws_secret_access_key");
    keys.session_token = value_of(credentials, profile, "aws_session_token");
  }
  if (!keys.access_key.empty() && keys.secret_key.empty()) {
    return invalid_argument("an AWS access key without its secret key (AWS_SECRET_ACCESS_KEY)");
  }
  environment.region = variable("AWS_REGION");
  if (environment.region.empty()) environment.region = variable("AWS_DEFAULT_REGION");
  if (environment.region.empty()) environment.region = value_of(config, config_section, "region");
  return environment;
}

}  // namespace kvpack
