// SPDX-License-Identifier: Apache-2.0
// The attention layers of a model as attention_sensitivity wants them: shapes and RoPE from its facts, what the output
// projection does to errors from its weights.
#pragma once

#include <vector>

#include "codec/attention_sensitivity.h"
#include "codec/model_weights.h"

namespace kvpack {

struct ModelAttention {
  std::vector<AttentionLayer> layers;  // those with a KV cache, ascending
  // [layers index] the projection's result is normalised before it is added: the norm's weights are in output_gram, its
  // gain is not.
  std::vector<bool> normed;
};

// Errors: unsupported (keys only, no such tensor, a type that is not read), corrupt (shapes that do not fit), io.
Result<ModelAttention> read_attention_layers(const ModelWeights& weights, const ModelFacts& facts, unsigned threads);

// Architectures that normalise the attention's result before they add it to the stream. Others use a tensor of the
// same name for the norm after the addition.
bool norms_attention_result(std::string_view architecture);

}  // namespace kvpack
