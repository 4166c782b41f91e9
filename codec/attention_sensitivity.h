// SPDX-License-Identifier: Apache-2.0
// How much the model minds errors in the keys and values of one layer, from a forward pass alone. For each query
// head, a = its attention to the prefix, o = its output, W = its slice of the output projection, r = the squared norm
// of the residual stream that W's result is added to, s = the scale of the scores:
//
//   value:  F = sum a^2 * W^T W / r
//   key:    F = sum over queries and tokens of a^2 |W (v_t - o)|^2 / r * s^2 * q q^T,  q rotated back to token t
//
// Both say by how much an error changes the stream, squared and relative to it: d(o) = a d(v) for values and
// a (v_t - o) s q.d(k) for keys. The key sum is sampled: per query a few tokens, drawn in proportion to their weight.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "formats/model_facts.h"

namespace kvpack {

// One layer's attention. Query heads h*g .. h*g + g-1 share KV head h (grouped queries).
struct AttentionLayer {
  uint32_t layer = 0;
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t key_dim = 0;
  uint32_t value_dim = 0;
  std::optional<Rope> rope;        // unset: keys are taken as they are
  uint32_t sliding_window = 0;     // tokens that a query sees, itself among them; 0: all
  float score_scale = 1;           // of query . key
  std::vector<float> output_gram;  // [query_head][value_dim][value_dim]: W^T W

  uint32_t group() const { return query_heads / kv_heads; }
};

// One text in one layer: tokens at consecutive positions, of which the last `queries` ask and the others are the
// prefix.
struct LayerWindow {
  uint32_t tokens = 0;
  uint32_t queries = 0;
  std::span<const float> query;  // [query][query_head][key_dim], after RoPE
  std::span<const float> key;    // [token][kv_head][key_dim], after RoPE
  std::span<const float> value;  // [token][kv_head][value_dim]
  double stream_power = 1;       // r: squared norm of the residual stream after this attention
  uint32_t first_position = 0;   // of the first token

  uint32_t prefix() const { return tokens - queries; }
};

inline constexpr uint32_t kSinkTokens = 4;  // first tokens, left out of every sum: they are kept exactly

// What one KV head's errors cost, summed over the window's queries and its query heads.
struct HeadSensitivity {
  std::vector<float> key;          // [key_dim][key_dim]
  std::vector<float> value;        // [value_dim][value_dim]
  std::vector<double> key_weight;  // [prefix token]: mean diagonal of that token's share
  std::vector<double> value_weight;
};

struct LayerSensitivity {
  std::vector<HeadSensitivity> heads;  // [kv_head]
  std::vector<float> output;           // [query][query_head][value_dim]: the attention's output, to check it by
};

struct SensitivityOptions {
  uint32_t draws = 2;  // tokens per query
  uint64_t seed = 0;
  unsigned threads = 0;
};

// `window` has at least one query and kSinkTokens + 1 prefix tokens, and spans of the sizes that it says.
LayerSensitivity attention_sensitivity(const AttentionLayer& layer, const LayerWindow& window,
                                       const SensitivityOptions& options);

// The attention's output alone, [query][query_head][value_dim]: as LayerSensitivity::output.
std::vector<float> attention_output(const AttentionLayer& layer, const LayerWindow& window, unsigned threads);

}  // namespace kvpack
