// SPDX-License-Identifier: Apache-2.0
#include "cli/profile.h"
namespace kvpack::cli {
void declare_profile_fit(CLI::App&, ProfileFitArguments&) {}
Result<int> run_profile_fit(const ProfileFitArguments&, Console&) { return unsupported("later"); }
}  // namespace kvpack::cli
