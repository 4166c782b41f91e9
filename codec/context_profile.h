// SPDX-License-Identifier: Apache-2.0
// A profile from one cached context and the model's weights, without an engine: the context's last tokens are taken
// through the model (sampled_forward.h), and what they ask of the cache trains it as a text would (profile_train.h).
// It knows this context better than any other, but only from where its own end looks back.
#pragma once

#include <functional>
#include <string>

#include "codec/profile.h"
#include "formats/byte_io.h"
#include "formats/kv_file.h"

namespace kvpack {

inline constexpr uint32_t kMeasuredQueries = 128;
inline constexpr uint32_t kMaxMeasuredQueries = 4096;

struct ContextProfileOptions {
  uint32_t queries = kMeasuredQueries;  // tokens taken through the model, fewer for short contexts
  uint32_t window_tokens = 8192;        // of the context's beginning that are looked at
  unsigned threads = 0;                 // 0: one per core
  std::function<void(uint64_t done, uint64_t total, const std::string& phase)> progress;
};

// Errors: unsupported or invalid_argument say why nothing can be measured (no token ids, positions with gaps, a cache
// of several streams, an architecture that is not understood, a model of another build); those of reading the model
// file.
Result<Profile> profile_of_context(const KvFile& file, const ModelFacts& facts, ByteSource& model,
                                   const ContextProfileOptions& options);

// How much each token matters to what follows a context, as its last tokens show it (they ask, attention answers) and
// not as a profile's regression on keys expects: [layer with KV][kv_head][token], for EncodeOptions::token_weights by
// way of spread_token_scores().
struct MeasuredTokenScores {
  std::vector<uint64_t> shape;
  std::vector<float> values;  // relative within a head, above 0
};
// The asking tokens, which nothing was asked of, count as others at their distance from the end did; what lies beyond
// the window, or before a sliding one, as 1, the mean. Errors: as profile_of_context().
Result<MeasuredTokenScores> measure_token_scores(const KvFile& file, const ModelFacts& facts, ByteSource& model,
                                                 const ContextProfileOptions& options);

}  // namespace kvpack
