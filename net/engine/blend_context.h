// SPDX-License-Identifier: Apache-2.0
// One context out of chunks that were cached on their own: their values one behind the other, keys rotated from the
// positions where they were computed to those where they stand now, and room at the end for the query's.
//
//   a: BOS a1 a2 a3     b: BOS b1 b2     query: q1 q2
//   joined, positions 0..7: BOS a1 a2 a3 b1 b2 q1 q2
//
// What every chunk begins with (BOS, or the same instructions) is kept once, from the first chunk: the model has read
// each chunk behind it, and so it has now.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "codec/sampled_forward.h"
#include "formats/kv_file.h"
#include "net/engine/blend_selection.h"

namespace kvpack {

struct BlendChunk {
  std::string name;  // for messages
  KvTensor tensor;   // keys after RoPE, in llama.cpp's channel order
  std::vector<int32_t> tokens;
};

struct JoinOptions {
  uint32_t shared_tokens = 0;  // at the beginning of every chunk
  bool rotate = true;          // false: keys stay as they are, at wrong positions (what not to do, to compare with)
};

class JoinedContext {
 public:
  // Errors: invalid_argument (no chunks, shapes that differ from the model's or the first chunk's, shared tokens that
  // are not the same), unsupported (several token sets, positions with gaps, unknown RoPE, keys only).
  static Result<JoinedContext> join(const std::vector<BlendChunk>& chunks, const std::vector<int32_t>& query,
                                    const ModelFacts& facts, const JoinOptions& options);

  const std::vector<int32_t>& tokens() const { return tokens_; }  // of all chunks, then the query
  const ChunkBounds& chunks() const { return chunks_; }           // the last entry is where the query begins
  uint32_t query_begin() const { return chunks_.back(); }
  // Layers are those with KV, counted from 0.
  size_t layers() const { return tensor_.planes.size() / 2; }
  CachedLayer layer(size_t index) const;
  // Rows of some tokens, [token][kv_head][dim].
  void store(size_t index, std::span<const uint32_t> tokens, std::span<const float> key, std::span<const float> value);
  // Another copy of a chunk that was joined, with the same tokens, in its place; what was stored over it is lost.
  // `options` and `facts` as they were for join(). Errors: as of join(); invalid_argument for other tokens.
  Status replace(size_t index, const BlendChunk& chunk, const ModelFacts& facts, const JoinOptions& options);
  // Its views are into this object.
  const KvTensor& tensor() const { return tensor_; }

 private:
  JoinedContext() = default;
  Status add_planes(const BlendChunk& first, const ModelFacts& facts);
  Status check_shape(const BlendChunk& chunk) const;
  Status check_chunk(const BlendChunk& chunk, const std::vector<BlendChunk>& chunks, uint32_t shared) const;
  void copy_chunk(const BlendChunk& chunk, uint32_t skipped, uint32_t to, const ModelFacts& facts, bool rotate);

  KvTensor tensor_;                      // planes: layer by layer, K, V
  std::vector<MutableKvView> writable_;  // [plane]
  std::vector<std::unique_ptr<Bytes>> storage_;
  std::vector<int32_t> tokens_;
  ChunkBounds chunks_;
};

// How many tokens all chunks begin with that are the model's begin-of-sequence token: 1 or 0.
uint32_t shared_bos(const std::vector<BlendChunk>& chunks, std::optional<int32_t> bos);

}  // namespace kvpack
