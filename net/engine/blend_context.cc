// SPDX-License-Identifier: Apache-2.0
#include "net/engine/blend_context.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "codec/rope.h"
#include "codec/row_values.h"
#include "formats/kv_planes.h"

namespace kvpack {
namespace {

constexpr uint32_t kMaxJoinedTokens = 1u << 24;

// The plane of one layer and side, or null.
const KvPlane* find_plane(const KvTensor& tensor, uint32_t layer, Side side) {
  for (const KvPlane& plane : tensor.planes) {
    if (plane.layer == layer && plane.side == side) return &plane;
  }
  return nullptr;
}

Status check_positions(const BlendChunk& chunk) {
  if (chunk.tensor.token_sets.size() != 1) {
    return unsupported(
        fmt::format("{}: holds {} token sets (sliding windows, or several streams); chunks with one can be joined",
                    chunk.name, chunk.tensor.token_sets.size()));
  }
  const auto& positions = chunk.tensor.token_sets[0].positions;
  if (positions.empty()) return invalid_argument(chunk.name + ": holds no tokens");
  for (size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] == positions[0] + static_cast<int64_t>(i)) continue;
    return unsupported(fmt::format("{}: its positions have gaps, or are out of order, at token {}", chunk.name, i));
  }
  if (chunk.tokens.size() != positions.size()) {
    return unsupported(fmt::format("{}: {} token ids for {} tokens; blending needs the ids, to compute tokens again",
                                   chunk.name, chunk.tokens.size(), positions.size()));
  }
  return {};
}

Status check_facts(const ModelFacts& facts) {
  bool rotated = false;
  for (const LayerFacts& layer : facts.layers) {
    if (layer.kv_heads > 0 && layer.value_dim == 0) return unsupported("a cache of keys only (MLA) cannot be blended");
    if (layer.recurrent)
      return unsupported("a model with recurrent state cannot be blended: the state is of the whole text");
    rotated = rotated || layer.rope >= 0;
  }
  if (facts.multi_section_rope) return unsupported("positions of several sections (M-RoPE) cannot be blended");
  if (!rotated) {
    return unsupported(fmt::format("the model's RoPE is unknown{}{}: its keys cannot be put at other positions",
                                   facts.note.empty() ? "" : ": ", facts.note));
  }
  return {};
}

}  // namespace

Status JoinedContext::add_planes(const BlendChunk& first, const ModelFacts& facts) {
  const auto count = static_cast<uint32_t>(tokens_.size());
  for (uint32_t index = 0; index < facts.layers.size(); ++index) {
    const LayerFacts& layer = facts.layers[index];
    if (layer.kv_heads == 0) continue;
    for (const Side side : {Side::kKey, Side::kValue}) {
      const KvPlane* plane = find_plane(first.tensor, index, side);
      if (plane == nullptr) return invalid_argument(fmt::format("{}: layer {} is not in it", first.name, index));
      const DType dtype = plain_dtype(plane->view.dtype);
      const uint32_t dim = side == Side::kKey ? layer.key_dim : layer.value_dim;
      storage_.push_back(std::make_unique<Bytes>(uint64_t{count} * layer.kv_heads * dim * dtype_block_bytes(dtype)));
      writable_.push_back(make_row_view(storage_.back()->data(), dtype, count, layer.kv_heads, dim));
      tensor_.planes.push_back({index, side, 0, layer.rope, writable_.back()});
    }
  }
  return {};
}

Status JoinedContext::check_shape(const BlendChunk& chunk) const {
  KVPACK_RETURN_IF_ERROR(check_positions(chunk));
  for (const KvPlane& plane : tensor_.planes) {
    const KvPlane* theirs = find_plane(chunk.tensor, plane.layer, plane.side);
    if (theirs == nullptr || theirs->view.channels() != plane.view.channels()) {
      return invalid_argument(fmt::format("{}: layer {} {} has {} channels, the model has {}", chunk.name, plane.layer,
                                          side_name(plane.side), theirs == nullptr ? 0 : theirs->view.channels(),
                                          plane.view.channels()));
    }
  }
  return {};
}

Status JoinedContext::check_chunk(const BlendChunk& chunk, const std::vector<BlendChunk>& chunks,
                                  uint32_t shared) const {
  KVPACK_RETURN_IF_ERROR(check_shape(chunk));
  if (chunk.tokens.size() <= shared ||
      !std::equal(chunk.tokens.begin(), chunk.tokens.begin() + shared, chunks.front().tokens.begin())) {
    return invalid_argument(fmt::format("{}: does not begin with the {} tokens that {} begins with, or holds no more",
                                        chunk.name, shared, chunks.front().name));
  }
  return {};
}

// The tokens of `chunk` behind the first `skipped`, to position `to` and on.
void JoinedContext::copy_chunk(const BlendChunk& chunk, uint32_t skipped, uint32_t to, const ModelFacts& facts,
                               bool rotate) {
  const auto& positions = chunk.tensor.token_sets[0].positions;
  const auto count = static_cast<uint32_t>(positions.size()) - skipped;
  const std::span<const int32_t> before = std::span(positions).subspan(skipped);
  std::vector<int32_t> after(count);
  std::iota(after.begin(), after.end(), static_cast<int32_t>(to));
  std::vector<float> rows;
  for (size_t p = 0; p < tensor_.planes.size(); ++p) {
    const KvPlane& plane = tensor_.planes[p];
    const KvView from = find_plane(chunk.tensor, plane.layer, plane.side)->view;
    rows.resize(size_t{count} * plane.view.channels());
    load_rows(from, skipped, count, rows.data());
    if (rotate && plane.side == Side::kKey && plane.rope >= 0 && before.front() != after.front()) {
      const Rope& rope = facts.ropes[static_cast<size_t>(plane.rope)];
      cached_rotation(rope, before).undo(rows, plane.view.kv_heads, plane.view.head_dim);
      cached_rotation(rope, after).redo(rows, plane.view.kv_heads, plane.view.head_dim);
    }
    store_values(writable_[p], to, count, rows.data());
  }
}

Result<JoinedContext> JoinedContext::join(const std::vector<BlendChunk>& chunks, const std::vector<int32_t>& query,
                                          const ModelFacts& facts, const JoinOptions& options) {
  if (chunks.empty()) return invalid_argument("there are no chunks to join");
  KVPACK_RETURN_IF_ERROR(check_facts(facts));
  JoinedContext joined;
  uint64_t total = query.size();
  for (const BlendChunk& chunk : chunks) {
    const size_t skipped = joined.chunks_.empty() ? 0 : options.shared_tokens;
    joined.chunks_.push_back(static_cast<uint32_t>(joined.tokens_.size()));
    total += chunk.tokens.size();
    if (total > kMaxJoinedTokens) return limit_exceeded(fmt::format("{} tokens, at most {}", total, kMaxJoinedTokens));
    if (chunk.tokens.size() > skipped) {
      joined.tokens_.insert(joined.tokens_.end(), chunk.tokens.begin() + static_cast<ptrdiff_t>(skipped),
                            chunk.tokens.end());
    }
  }
  joined.chunks_.push_back(static_cast<uint32_t>(joined.tokens_.size()));
  joined.tokens_.insert(joined.tokens_.end(), query.begin(), query.end());
  KVPACK_RETURN_IF_ERROR(check_positions(chunks.front()));
  KVPACK_RETURN_IF_ERROR(joined.add_planes(chunks.front(), facts));
  for (size_t c = 0; c < chunks.size(); ++c) {
    KVPACK_RETURN_IF_ERROR(joined.check_chunk(chunks[c], chunks, options.shared_tokens));
    joined.copy_chunk(chunks[c], c == 0 ? 0 : options.shared_tokens, joined.chunks_[c], facts, options.rotate);
  }
  TokenSet set;
  set.positions.resize(joined.tokens_.size());
  std::iota(set.positions.begin(), set.positions.end(), 0);
  joined.tensor_.token_sets.push_back(std::move(set));
  return joined;
}

Status JoinedContext::replace(size_t index, const BlendChunk& chunk, const ModelFacts& facts,
                              const JoinOptions& options) {
  KVPACK_RETURN_IF_ERROR(check_shape(chunk));
  const size_t skipped = index == 0 ? 0 : options.shared_tokens;
  const std::span<const int32_t> joined = std::span(tokens_).first(chunks_[index + 1]).subspan(chunks_[index]);
  if (chunk.tokens.size() != skipped + joined.size() ||
      !std::equal(joined.begin(), joined.end(), chunk.tokens.begin() + static_cast<ptrdiff_t>(skipped))) {
    return invalid_argument(chunk.name + ": holds other tokens than before");
  }
  copy_chunk(chunk, static_cast<uint32_t>(skipped), chunks_[index], facts, options.rotate);
  return {};
}

CachedLayer JoinedContext::layer(size_t index) const {
  const KvView& key = tensor_.planes[2 * index].view;
  const KvView& value = tensor_.planes[2 * index + 1].view;
  CachedLayer layer;
  layer.tokens = key.tokens;
  layer.key.resize(size_t{layer.tokens} * key.channels());
  layer.value.resize(size_t{layer.tokens} * value.channels());
  load_rows(key, 0, layer.tokens, layer.key.data());
  load_rows(value, 0, layer.tokens, layer.value.data());
  return layer;
}

void JoinedContext::store(size_t index, std::span<const uint32_t> tokens, std::span<const float> key,
                          std::span<const float> value) {
  const MutableKvView& keys = writable_[2 * index];
  const MutableKvView& values = writable_[2 * index + 1];
  for (size_t i = 0; i < tokens.size(); ++i) {
    store_values(keys, tokens[i], 1, key.data() + i * keys.channels());
    store_values(values, tokens[i], 1, value.data() + i * values.channels());
  }
}

uint32_t shared_bos(const std::vector<BlendChunk>& chunks, std::optional<int32_t> bos) {
  const bool all = bos.has_value() && std::ranges::all_of(chunks, [&](const BlendChunk& chunk) {
                     return !chunk.tokens.empty() && chunk.tokens.front() == *bos;
                   });
  return all ? 1 : 0;
}

}  // namespace kvpack
