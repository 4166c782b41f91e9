// SPDX-License-Identifier: Apache-2.0
// What the readers of the three kinds of model file share.
#pragma once

#include <cstdint>
#include <string_view>

#include "formats/byte_io.h"
#include "formats/model_facts.h"

namespace kvpack {

// From a GGUF's metadata (model_gguf.cc).
Result<ModelFacts> model_facts_from_gguf(ByteSource& source);

// The index of `rope` in facts.ropes, added if it is new.
int32_t intern_rope(ModelFacts& facts, const Rope& rope);

// `value` as a uint32_t within [low, high], or an error that names `what` and the bounds.
Result<uint32_t> bounded(uint64_t value, uint64_t low, uint64_t high, std::string_view what);

inline constexpr uint64_t kMaxModelJsonBytes = 16 << 20;

}  // namespace kvpack
