// SPDX-License-Identifier: Apache-2.0
// A context with fewer tokens, before it is encoded (H2O, arXiv 2306.14048; SnapKV, arXiv 2404.14469; budgets per head
// as in RazorAttention, arXiv 2407.15891). The tokens that are left keep their positions and their stored bytes; a file
// of them restores into the engine as it is, and the token ids of the whole prompt stay in it.
//
// A token leaves the file if no head of any layer of its token set keeps it. One that only some heads keep stays, and
// in the other heads its values are replaced by the head's channel means (of the profile that encodes them, else of
// what the head keeps; keys with RoPE undone), which every transform maps to zeros. To such a head the token then looks
// like an average one, and draws no more attention than the dropped tokens did: exp of a mean is no larger than the
// mean of exps. Zeros would not do, in a lossless archive either, though they cost less there: most tokens' keys keep
// attention away from them (towards the sink), and a key of zeros does not.
//
// Attention sinks (outliers.h) and the last token, from whose position an engine goes on, are kept whatever is asked.
#pragma once

#include "codec/profile.h"
#include "codec/token_scores.h"
#include "formats/kv_file.h"
#include "formats/model_facts.h"

namespace kvpack {

struct SelectOptions {
  KvReadOptions read;                   // what `file` was read with
  bool merge = false;                   // token_merge.h
  const Profile* profile = nullptr;     // whose means are used
  const TokenScores* scores = nullptr;  // weights for merging; null: all alike
  unsigned threads = 0;
};

struct SelectedContext {
  KvFile file;
  // For EncodeOptions::token_weights: scores of what is kept, 0 where a head dropped a token. Empty if there were no
  // scores and no head dropped a kept token.
  TokenScores weights;
  // For EncodeOptions::sinks: those of the whole context, which what is left no longer shows.
  std::vector<std::vector<uint32_t>> sinks;
  uint64_t tokens = 0;        // of the longest token set before
  uint64_t kept_tokens = 0;   // and after
  double replaced_share = 0;  // of the kept (layer, head, token): dropped by their head alone
};

// `keep`: not 0 for what is kept. `facts` may be null. An npy cache, which has no positions, becomes a safetensors
// file. Errors: invalid_argument (several sequences, repeated positions), unsupported (state that is of its whole
// context).
Result<SelectedContext> select_tokens(const KvFile& file, const ModelFacts* facts, const TokenScores& keep,
                                      const SelectOptions& options);

}  // namespace kvpack
