// SPDX-License-Identifier: Apache-2.0
// llama.cpp computes with backends, which may be libraries of their own.
#pragma once

#include <string>

namespace kvpack::engine {

// Once per process: those in `folder`, or for "" those beside libllama (or built into it; llama.cpp itself looks beside
// the program only). Whether there is one.
bool load_backends(const std::string& folder);

}  // namespace kvpack::engine
