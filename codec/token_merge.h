// SPDX-License-Identifier: Apache-2.0
// Dropped tokens live on in a kept neighbour (KVMerger, arXiv 2407.08454, and D2O, arXiv 2406.13035, average the KV of
// what they evict into similar tokens that they keep).
//
// For every head on its own: a dropped token goes to the kept token whose key, RoPE undone and the head's mean taken
// off, points most nearly the same way, among the kMergeReach kept ones before it and as many after it. Where even that
// cosine is at most kMergeCosine it is dropped for good. A kept token becomes the mean of itself (weight: its score)
// and what goes to it (weight: score x cosine), keys and values alike.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvpack {

inline constexpr uint32_t kMergeReach = 16;
inline constexpr float kMergeCosine = 0.5f;

// One head's rows within a layer's.
struct HeadRows {
  std::span<float> rows;  // [token][kv_head][dim]; empty: the layer has no such side
  uint32_t kv_heads = 1;
  uint32_t head = 0;
  uint32_t dim = 0;

  float* of(uint32_t token) const { return rows.data() + (uint64_t{token} * kv_heads + head) * dim; }
};

// `fate` [token]: what a token is to this head.
enum class TokenFate : uint8_t { kDropped, kKept, kUntouched };  // untouched: kept, and nothing is merged into it

// `scores` [token], or empty: all 1. Returns the kept tokens that changed, ascending.
std::vector<uint32_t> merge_dropped_tokens(const HeadRows& keys, const HeadRows& values,
                                           std::span<const TokenFate> fate, std::span<const float> scores);

}  // namespace kvpack
