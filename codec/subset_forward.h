// SPDX-License-Identifier: Apache-2.0
// Some tokens of a context, anywhere in it, taken through the model's layers once more: fewer and fewer of them if the
// caller wants. The others keep the keys and values that the cache holds, and all that see each other do so under the
// exact causal mask. No engine is needed, and a token that goes on for some layers costs those layers only.
#pragma once

#include <functional>

#include "codec/attention_layers.h"
#include "codec/sampled_forward.h"

namespace kvpack {

// What one layer computed for the tokens that reached it.
struct FreshLayer {
  size_t index = 0;                  // of the attention layer
  std::span<const uint32_t> tokens;  // ascending
  std::span<const float> key;        // [of tokens][kv_head][key_dim], after RoPE
  std::span<const float> value;      // [of tokens][kv_head][value_dim]
  const CachedLayer& cached;         // as it was before
};

struct SubsetForward {
  std::span<const int32_t> tokens;  // the context, at positions 0..n-1
  std::vector<uint32_t> subset;     // of these, taken through the first layer; ascending
  size_t layers = SIZE_MAX;         // the pass ends behind this many
  unsigned threads = 0;
  // The cache of the attention layer with this index: all n tokens, whatever it holds of those in `subset`.
  std::function<Result<CachedLayer>(size_t index)> cached;
  // Which of fresh.tokens go on, ascending; the first to see fresh keys and values, which are stored whatever it says.
  // Unset: all of them.
  std::function<Result<std::vector<uint32_t>>(const FreshLayer& fresh)> narrow;
  // Fresh keys and values for the cache; unset: they are forgotten.
  std::function<Status(const FreshLayer& fresh)> store;
  // The attention that every token of the context got from those that went on; unset: not summed.
  std::function<void(size_t index, std::span<const float> received)> attended;
};

// Returns tokens times layers that were computed. Errors: unsupported (a layer of another kind), what the callbacks
// return, io.
Result<uint64_t> run_subset_forward(const ModelWeights& weights, const ModelAttention& attention,
                                    const SubsetForward& run);

}  // namespace kvpack
