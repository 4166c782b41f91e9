// SPDX-License-Identifier: Apache-2.0
// kvpack(1), from the declared command line itself, so that the two cannot differ. `kvpack help --man` prints it, and
// the build installs what that prints.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace kvpack::cli {

// In roff with the man(7) macros.
std::string man_page(const CLI::App& program, const std::string& version);

}  // namespace kvpack::cli
