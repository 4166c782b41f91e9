// SPDX-License-Identifier: Apache-2.0
// Runs the real command line program, without a shell between.
#pragma once

#include <string>
#include <vector>

#include "formats/result.h"

namespace kvpack::engine {

// Waits for `arguments[0]`, found through PATH; what it prints on stdout is dropped. Wall time in ms, or an error that
// names the command and how it ended.
Result<double> run_program(const std::vector<std::string>& arguments);

}  // namespace kvpack::engine
