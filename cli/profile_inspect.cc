// SPDX-License-Identifier: Apache-2.0
#include "cli/profile.h"
namespace kvpack::cli {
void declare_profile_inspect(CLI::App&, ProfileInspectArguments&) {}
Result<int> run_profile_inspect(const ProfileInspectArguments&, Console&) { return unsupported("later"); }
}  // namespace kvpack::cli
