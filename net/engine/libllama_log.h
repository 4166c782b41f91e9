// SPDX-License-Identifier: Apache-2.0
// llama.cpp's log, which it has instead of error messages: kept silent, its last error told with ours.
#pragma once

#include <string>

#include "formats/result.h"

namespace kvpack::engine {

// From now on llama.cpp prints nothing (one log for the whole process).
void keep_last_log_error();

// An io error: `what`, and what llama.cpp last complained of.
Error log_error(std::string what);

}  // namespace kvpack::engine
