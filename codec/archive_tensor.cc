// SPDX-License-Identifier: Apache-2.0
// .kvp -> the selected tokens and layers as a KvTensor.
#include <algorithm>

#include "codec/archive_chunks.h"
#include "codec/archive_codec.h"

namespace kvpack {
namespace {

DType decoded_type(DType source) { return dtype_is_quantized(source) ? DType::kF16 : source; }

// Which tokens of which set are selected, and where they go.
struct Selection {
  std::vector<std::vector<uint32_t>> tokens;  // [token set] selected tokens, ascending
  std::vector<int32_t> set_of;                // [token set] index in the result, -1 if nothing is selected
};

Selection select_tokens(const ArchiveShape& shape, const IndexRange& positions) {
  Selection selection;
  int32_t next = 0;
  for (const TokenSetShape& set : shape.token_sets) {
    std::vector<uint32_t> chosen;
    for (uint32_t t = 0; t < set.positions.size(); ++t) {
      const int32_t position = set.positions[t];
      if (position >= 0 && static_cast<uint32_t>(position) >= positions.begin &&
          static_cast<uint32_t>(position) < positions.end) {
        chosen.push_back(t);
      }
    }
    selection.set_of.push_back(chosen.empty() ? -1 : next++);
    selection.tokens.push_back(std::move(chosen));
  }
  return selection;
}

}  // namespace

Result<KvTensor> decode_tensor(const ArchiveReader& reader, const DecodeOptions& options,
                               std::vector<int32_t>* tokens) {
  const ArchiveShape& shape = reader.shape();
  const Selection selection = select_tokens(shape, options.positions);
  const auto plane_wanted = [&](const PlaneShape& plane) {
    return plane.layer >= options.layers.begin && plane.layer < options.layers.end &&
           selection.set_of[plane.token_set] >= 0;
  };
  KvTensor tensor;
  for (size_t s = 0; s < shape.token_sets.size(); ++s) {
    if (selection.set_of[s] < 0) continue;
    TokenSet set;
    set.stream = shape.token_sets[s].stream;
    for (const uint32_t t : selection.tokens[s]) set.positions.push_back(shape.token_sets[s].positions[t]);
    tensor.token_sets.push_back(std::move(set));
  }
  // First the sizes, then one buffer for all planes.
  std::vector<int32_t> plane_index(shape.planes.size(), -1);
  std::vector<uint64_t> offsets;
  uint64_t total_bytes = 0;
  for (size_t p = 0; p < shape.planes.size(); ++p) {
    const PlaneShape& plane = shape.planes[p];
    if (!plane_wanted(plane)) continue;
    const uint32_t count = static_cast<uint32_t>(selection.tokens[plane.token_set].size());
    plane_index[p] = static_cast<int32_t>(tensor.planes.size());
    offsets.push_back(total_bytes);
    total_bytes += uint64_t{count} * plane.channels() * dtype_block_bytes(decoded_type(plane.dtype));
    tensor.planes.push_back(
        {plane.layer, plane.side, static_cast<uint32_t>(selection.set_of[plane.token_set]), plane.rope, {}});
  }
  if (tensor.planes.empty()) {
    return invalid_argument("no token or layer of the archive lies in the ranges that were asked for");
  }
  MutableByteSpan storage;
  KVPACK_ASSIGN_OR_RETURN(tensor.storage, FileBytes::zeros(total_bytes, storage));
  std::vector<MutableKvView> views;
  for (size_t p = 0; p < shape.planes.size(); ++p) {
    if (plane_index[p] < 0) continue;
    const PlaneShape& plane = shape.planes[p];
    views.push_back(make_row_view<std::byte>(storage.data() + offsets[views.size()], decoded_type(plane.dtype),
                                             static_cast<uint32_t>(selection.tokens[plane.token_set].size()),
                                             plane.kv_heads, plane.head_dim));
    tensor.planes[static_cast<size_t>(plane_index[p])].view = views.back();
  }

  const auto tile_wanted = [&](const ChunkShape& chunk, const PlaneShape& plane) {
    if (!plane_wanted(plane)) return false;
    const auto& chosen = selection.tokens[chunk.token_set];
    const auto at = std::lower_bound(chosen.begin(), chosen.end(), chunk.first_token);
    return at != chosen.end() && *at < chunk.first_token + chunk.tokens;
  };
  const auto selected_of = [&](const ChunkShape& chunk) {
    const auto& chosen = selection.tokens[chunk.token_set];
    const auto first = std::lower_bound(chosen.begin(), chosen.end(), chunk.first_token);
    const auto last = std::lower_bound(first, chosen.end(), chunk.first_token + chunk.tokens);
    return std::pair(static_cast<uint32_t>(first - chosen.begin()), static_cast<uint32_t>(last - chosen.begin()));
  };
  TileSink sink;
  // A chunk whose tokens are all selected is decoded in place, another by way of a copy.
  sink.rows = [&](const ChunkShape& chunk, uint32_t plane, Bytes& scratch) {
    const MutableKvView& out = views[static_cast<size_t>(plane_index[plane])];
    const auto [first, last] = selected_of(chunk);
    if (last - first == chunk.tokens) return slice_tokens(out, first, chunk.tokens);
    scratch.resize(std::max<size_t>(scratch.size(), chunk.tokens * out.packed_row_bytes()));
    return make_row_view<std::byte>(scratch.data(), out.dtype, chunk.tokens, out.kv_heads, out.head_dim);
  };
  sink.finished = [&](const ChunkShape& chunk, uint32_t plane, const Bytes& scratch) -> Status {
    const MutableKvView& out = views[static_cast<size_t>(plane_index[plane])];
    const auto [first, last] = selected_of(chunk);
    for (uint32_t i = first; i < last && last - first < chunk.tokens; ++i) {
      const uint32_t token = selection.tokens[chunk.token_set][i] - chunk.first_token;
      store_raw(out, i, 1, scratch.data() + token * out.packed_row_bytes());
    }
    return {};
  };
  KVPACK_RETURN_IF_ERROR(for_each_tile(reader, options, tile_wanted, sink));

  if (tokens != nullptr) {
    tokens->clear();
    KVPACK_ASSIGN_OR_RETURN(std::vector<int32_t> all, read_tokens(reader));
    for (uint64_t i = options.positions.begin; i < std::min<uint64_t>(all.size(), options.positions.end); ++i) {
      tokens->push_back(all[i]);
    }
  }
  return tensor;
}

}  // namespace kvpack
