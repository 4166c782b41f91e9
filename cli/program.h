// SPDX-License-Identifier: Apache-2.0
// The command line: which verbs there are, how arguments become a call, how its outcome becomes an exit code.
#pragma once

namespace kvpack::cli {

int run_program(int argc, char** argv);

}  // namespace kvpack::cli
