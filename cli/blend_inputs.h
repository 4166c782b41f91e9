// SPDX-License-Identifier: Apache-2.0
// What `blend` reads: chunks, archives or KV files of one model, and the query as tokens.
#pragma once

#include <string>
#include <vector>

#include "cli/blend.h"
#include "net/engine/blend_context.h"
#include "net/engine/engine.h"

namespace kvpack::cli {

// Whole chunks, decoded. Errors name the file; invalid_argument for one of another model.
Result<std::vector<BlendChunk>> read_chunks(const BlendArguments& arguments, const ModelFacts& facts);

// --query-tokens, or --query tokenized by `engine` (null: by libllama, if this build has it), without `bos` in front.
Result<std::vector<int32_t>> read_query(const BlendArguments& arguments, std::optional<int32_t> bos, Engine* engine);

// Unset: "auto". Errors: invalid_argument.
Result<std::optional<double>> parse_blend_ratio(const std::string& text);

}  // namespace kvpack::cli
