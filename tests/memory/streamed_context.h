// SPDX-License-Identifier: Apache-2.0
// A llama.cpp state file of any length, written without holding it: values with means, directions and deviations of
// their own per channel, as a real cache has. And a model.json to match.
#pragma once

#include <cstdint>
#include <string>

#include "formats/result.h"

namespace kvpack::test {

// 32 KiB of f16 values per token: 2^18 tokens are 8 GiB.
struct ContextShape {
  uint32_t tokens = 1024;
  uint32_t layers = 16;
  uint32_t kv_heads = 4;
  uint32_t head_dim = 128;

  uint64_t token_bytes() const { return uint64_t{layers} * 2 * kv_heads * head_dim * 2; }
  uint64_t value_bytes() const { return tokens * token_bytes(); }
};

Status write_context(const ContextShape& shape, const std::string& path);
Status write_context_model(const ContextShape& shape, const std::string& path);

}  // namespace kvpack::test
