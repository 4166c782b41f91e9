// SPDX-License-Identifier: Apache-2.0
// One number per (layer, KV head, token) of a context: how much a token matters there, or whether it is kept.
//
// A caller's array is [layer][kv_head][token] or, alike for all layers and heads, [token]. Its layers are those that
// have KV, ascending; its tokens are those of the longest token set by position, and layers with a sliding window take
// the entries of the positions that they hold.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/profile.h"
#include "formats/kv_tensor.h"
#include "formats/model_facts.h"
#include "formats/result.h"

namespace kvpack {

using TokenScores = std::vector<std::vector<float>>;  // [plane of the tensor][token * kv_heads + head]

// Errors: invalid_argument if the shape is not the context's (both are named), if a value is negative, NaN or infinite
// (its place is named), or if the context holds several sequences.
Result<TokenScores> spread_token_scores(std::span<const uint64_t> shape, std::span<const float> values,
                                        const KvTensor& tensor);

// What a profile's regression on the keys expects, each head's largest being 1; all zero in layers that the profile
// knows nothing of. Error: invalid_argument if it knows nothing of any layer.
Result<TokenScores> predict_token_scores(const KvTensor& tensor, const ModelFacts& facts, const Profile& profile);

// The key plane of `plane`'s layer and token set; itself if there is none.
uint32_t key_plane_of(const KvTensor& tensor, uint32_t plane);

}  // namespace kvpack
