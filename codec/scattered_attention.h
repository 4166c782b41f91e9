// SPDX-License-Identifier: Apache-2.0
// Attention of some of a context's tokens to everything in front of them and themselves, wherever they stand: what
// recomputing single tokens in the middle of a context needs (CacheBlend, arXiv 2405.16444).
#pragma once

#include <span>
#include <vector>

#include "codec/attention_sensitivity.h"

namespace kvpack {

// `tokens` ask, ascending indices into a context at consecutive positions; `query` [asking][query_head][key_dim] and
// `key` [token][kv_head][key_dim] after RoPE, `value` [token][kv_head][value_dim]. Returns [asking][query_head]
// [value_dim]. `received` (may be null), [token]: added to it is the attention that each token gets, summed over
// asking tokens and heads.
std::vector<float> scattered_attention(const AttentionLayer& layer, std::span<const uint32_t> tokens,
                                       std::span<const float> query, std::span<const float> key,
                                       std::span<const float> value, unsigned threads, std::vector<float>* received);

}  // namespace kvpack
