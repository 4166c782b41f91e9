// SPDX-License-Identifier: Apache-2.0
// The last tokens of a context, taken through the model's layers once more. Their attention reads the cached keys and
// values, so each token costs one pass through the weights and needs no other token: what the model asks of its cache
// is seen without an engine. Layers: RMS norm, attention with RoPE (biases, norms of queries and keys, norms after the
// blocks, sliding windows), a gated feed-forward net. Every layer's keys and values are compared with the cached ones,
// so that a model of another build is noticed, not measured wrongly.
#pragma once

#include <functional>

#include "codec/attention_layers.h"
#include "codec/attention_sensitivity.h"

namespace kvpack {

// What one layer's cache holds of a window of the context: `tokens` tokens from position `first` on.
struct CachedLayer {
  uint32_t first = 0;
  uint32_t tokens = 0;
  std::vector<float> key;    // [token][kv_head][key_dim], after RoPE
  std::vector<float> value;  // [token][kv_head][value_dim]
};

struct SampledForward {
  // The tokens at positions 0..n-1; the last `queries` of them are taken through the model.
  std::span<const int32_t> tokens;
  uint32_t queries = 0;
  unsigned threads = 0;
  // The cache of the attention layer with this index, up to and including the last token.
  std::function<Result<CachedLayer>(size_t index)> cached;
  // A layer's window; its spans live until the call returns.
  std::function<Status(size_t index, const LayerWindow& window)> visit;
};

// Errors: unsupported (a layer of another kind, or one that the cache contradicts), what the callbacks return, io.
Status run_sampled_forward(const ModelWeights& weights, const ModelAttention& attention, const SampledForward& run);

}  // namespace kvpack
