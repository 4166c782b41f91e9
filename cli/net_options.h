// SPDX-License-Identifier: Apache-2.0
// Options of every verb that takes a URL: who we are to the server, and how to reach it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "net/range_source.h"

namespace kvpack::cli {

struct NetArguments {
  std::vector<std::string> headers;
  std::string bearer_token;
  std::string user;  // NAME:PASSWORD
  bool http1_only = false;
  std::string s3_endpoint;
  std::string s3_region;
  std::string s3_profile;
  std::string s3_addressing = "auto";
  bool s3_anonymous = false;
};

void declare_net_options(CLI::App& verb, NetArguments& arguments);
// Errors: invalid_argument. $KVPACK_TOKEN is the bearer token where no option gives one.
Result<RangeSourceOptions> net_options(const NetArguments& arguments);

}  // namespace kvpack::cli
