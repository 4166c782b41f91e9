// SPDX-License-Identifier: Apache-2.0
// Token weights predicted from keys: a profile's regression (profile.h), applied to one layer's keys.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/profile.h"
#include "formats/kv_tensor.h"
#include "formats/model_facts.h"

namespace kvpack {

inline constexpr uint32_t kWeightTokens = 256;

// ln of the weights of the tokens [block x kWeightTokens, ...), up to a constant per head, into `log_weights`
// [kv_head][token of the view]. `context_tokens` is the length of the whole context; values that are not finite count
// as zero. The view's shape must be the model's.
void predict_log_weights(const KvView& keys, const Rope* rope, std::span<const int32_t> positions,
                         uint32_t context_tokens, const TokenWeightModel& model, uint32_t block,
                         std::span<float> log_weights);

// Of all tokens, [kv_head][token].
std::vector<float> predict_log_weights(const KvView& keys, const Rope* rope, std::span<const int32_t> positions,
                                       uint32_t context_tokens, const TokenWeightModel& model);

// Classes [kv_head][token] from such weights, head by head; sinks, which are kept exactly, get class 0 and do not
// count.
std::vector<int8_t> classes_of_plane(std::span<const float> log_weights, uint32_t kv_heads,
                                     std::span<const uint32_t> sinks);

}  // namespace kvpack
