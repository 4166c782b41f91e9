// SPDX-License-Identifier: Apache-2.0
#include "cli/net_options.h"

#include <cstdlib>

#include "cli/option_types.h"

namespace kvpack::cli {

void declare_net_options(CLI::App& verb, NetArguments& arguments) {
  const std::string group = "Network options";
  verb.add_option("--header", arguments.headers, "header to send, 'Name: value'; may be repeated")
      ->type_name("HEADER")
      ->expected(1)
      ->take_all()
      ->group(group);
  verb.add_option("--bearer", arguments.bearer_token, "bearer token (or $KVPACK_TOKEN, which other users cannot see)")
      ->type_name("TOKEN")
      ->group(group);
  verb.add_option("--user", arguments.user, "basic authentication (or ~/.netrc)")
      ->type_name("NAME:PASSWORD")
      ->group(group);
  verb.add_flag("--http1.1", arguments.http1_only, "do not use HTTP/2")->group(group);
  verb.add_option("--s3-endpoint", arguments.s3_endpoint, "S3 server (or $AWS_ENDPOINT_URL)")
      ->type_name("URL")
      ->group(group);
  verb.add_option("--s3-region", arguments.s3_region, "S3 region (or $AWS_REGION)")->type_name("REGION")->group(group);
  verb.add_option("--s3-profile", arguments.s3_profile, "profile in ~/.aws (or $AWS_PROFILE)")
      ->type_name("NAME")
      ->group(group);
  add_choice(verb, "--s3-addressing", arguments.s3_addressing, {"auto", "path", "virtual-host"},
             "where the bucket's name goes (auto: host at AWS, else path)")
      ->group(group);
  verb.add_flag("--s3-anonymous", arguments.s3_anonymous, "sign nothing")->group(group);
}

Result<RangeSourceOptions> net_options(const NetArguments& arguments) {
  RangeSourceOptions options;
  options.http.headers = arguments.headers;
  options.http.bearer_token = arguments.bearer_token;
  options.http.http1_only = arguments.http1_only;
  if (!arguments.user.empty()) {
    const size_t colon = arguments.user.find(':');
    if (colon == 0 || colon == std::string::npos) return invalid_argument("--user: expected NAME:PASSWORD");
    options.http.user = arguments.user.substr(0, colon);
    options.http.password = arguments.user.substr(colon + 1);
  }
  const char* token = std::getenv("KVPACK_TOKEN");
  if (options.http.bearer_token.empty() && options.http.user.empty() && token != nullptr) {
    options.http.bearer_token = token;
  }
  options.s3.endpoint = arguments.s3_endpoint;
  options.s3.region = arguments.s3_region;
  options.s3.profile = arguments.s3_profile;
  options.s3.anonymous = arguments.s3_anonymous;
  options.s3.addressing = arguments.s3_addressing == "path"           ? S3Addressing::kPath
                          : arguments.s3_addressing == "virtual-host" ? S3Addressing::kVirtualHost
                                                                      : S3Addressing::kAuto;
  return options;
}

}  // namespace kvpack::cli
