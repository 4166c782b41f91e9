// SPDX-License-Identifier: Apache-2.0
// A model's tokens without its weights, by the llama.cpp that this build was linked with.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/result.h"

namespace kvpack::engine {

// Special tokens that the text spells out (<|im_start|>) count, and none is put in front. Errors: io, with llama.cpp's
// own last message.
Result<std::vector<int32_t>> tokenize_for(const std::string& model_path, std::string_view text);

}  // namespace kvpack::engine
