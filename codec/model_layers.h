// SPDX-License-Identifier: Apache-2.0
// The arithmetic of a transformer's layers, one step at a time, for whoever takes tokens through a model without an
// engine: RMS norms, queries and keys with RoPE (biases, norms of queries and keys), the output projection (norms after
// the blocks), a gated feed-forward net. Attention itself is the caller's: what it reads differs.
#pragma once

#include <span>
#include <string_view>

#include "codec/attention_layers.h"

namespace kvpack {

class ModelLayers {
 public:
  // Both must outlive it.
  ModelLayers(const ModelWeights& weights, const ModelAttention& attention);

  // The residual stream of `tokens` in front of the first layer, [token][width].
  Result<Rows> embed(std::span<const int32_t> tokens) const;
  // What the projections of attention layer `index` take, [token][width].
  Result<Rows> attention_input(size_t index, const Rows& stream) const;
  // "attn_q" or "attn_k", rotated to `positions` [token]: [token][head][key_dim].
  Result<Rows> rotated_heads(size_t index, std::string_view tensor, const Rows& input,
                             std::span<const int32_t> positions) const;
  Result<Rows> values(size_t index, const Rows& input) const;  // [token][kv_head][value_dim]
  // Adds the projection of the attention's output [token][query_head][value_dim] to the stream. `power` (may be null):
  // the projection's median squared norm before it is normalised.
  Status add_attention(size_t index, const Rows& output, Rows& stream, double* power) const;
  Status add_feed_forward(size_t index, Rows& stream) const;

 private:
  Result<Rows> normed(uint32_t layer, std::string_view tensor, Rows rows) const;
  Result<Rows> gated(uint32_t layer, const Rows& input) const;
  uint32_t layer_of(size_t index) const { return attention_->layers[index].layer; }

  const ModelWeights* weights_;
  const ModelAttention* attention_;
  bool gelu_;
  bool scaled_embedding_;
};

double median_power(const Rows& rows);  // of the rows' squared norms

}  // namespace kvpack
