// SPDX-License-Identifier: Apache-2.0
#include "codec/tile_entropy.h"

#include <cmath>
#include <unordered_map>

#include "codec/archive_chunks.h"
#include "codec/layer_planes.h"
#include "codec/outliers.h"
#include "codec/tile.h"
#include "codec/tile_symbols.h"

namespace kvpack {
namespace {

double entropy_bits(const std::unordered_map<int32_t, uint32_t>& counts, uint32_t total) {
  double bits = 0;
  for (const auto& [value, n] : counts) bits += n * std::log2(static_cast<double>(total) / n);
  return bits;
}

// Entropy of all groups of an opened tile, in bits.
Result<double> entropy_of(TileSymbols& symbols, uint32_t components, uint32_t tokens) {
  std::vector<std::unordered_map<int32_t, uint32_t>> counts(components);
  for (uint32_t group = 0; group < symbols.groups() && !symbols.wide(); ++group) {
    KVPACK_RETURN_IF_ERROR(symbols.decode_group(group));
    for (uint32_t k = 0; k < components; ++k) {
      for (uint32_t lane = 0; lane < kLanes && group * kLanes + lane < tokens; ++lane)
        ++counts[k][symbols.values(k)[lane]];
    }
  }
  double bits = 0;
  for (const auto& of_component : counts) bits += entropy_bits(of_component, tokens);
  return bits;
}

// Adds one tile. `key_classes` are those of the layer's key tile, and become this one's if it is a key.
Status add_tile(const TileContext& context, ByteSpan tile, std::vector<int8_t>& key_classes, TileEntropy& total) {
  const PlaneShape& shape = context.shape;
  const auto tokens = static_cast<uint32_t>(context.positions.size());
  ByteReader in(tile);
  KVPACK_ASSIGN_OR_RETURN(const uint8_t mode, in.read<uint8_t>("tile mode"));
  if (mode != static_cast<uint8_t>(TileMode::kQuantized) || context.parameters.low_rank > 0) return {};
  const uint64_t row_bytes =
      make_row_view<const std::byte>(nullptr, shape.dtype, 1, shape.kv_heads, shape.head_dim).packed_row_bytes();
  KVPACK_RETURN_IF_ERROR(read_exact_values(in, shape.dtype, uint64_t{tokens} * shape.channels()));
  KVPACK_RETURN_IF_ERROR(read_exact_tokens(in, tokens, row_bytes));
  KVPACK_ASSIGN_OR_RETURN(TileTokenClasses own, read_token_classes(in, shape.kv_heads, tokens));
  const std::vector<int8_t> classes = own.source == TokenClassSource::kKeyTile ? key_classes : std::move(own.classes);
  if (shape.side == Side::kKey) key_classes = classes;
  std::vector<LaneOrder> order;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    std::span<const int8_t> of_head(classes);
    if (!classes.empty()) of_head = of_head.subspan(size_t{head} * tokens, tokens);
    order.push_back(lane_order(of_head, tokens));
  }
  const ByteSpan bodies[] = {tile.subspan(in.offset())};
  TileSymbols symbols;
  KVPACK_RETURN_IF_ERROR(symbols.open(bodies, context.parameters, shape, order, tokens));
  uint32_t components = 0;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    components += context.parameters.components(head, shape.head_dim);
  }
  KVPACK_ASSIGN_OR_RETURN(const double bits, entropy_of(symbols, components, tokens));
  if (symbols.wide()) return {};
  ++total.tiles;
  total.tile_bytes += tile.size();
  total.entropy_bytes += bits / 8;
  return {};
}

}  // namespace

Result<TileEntropy> measure_tile_entropy(const ArchiveReader& reader, const Profile* profile) {
  if (reader.directory().levels != 1) return invalid_argument("the entropy of tiles is that of one level");
  KVPACK_ASSIGN_OR_RETURN(const std::vector<PlaneParameters> parameters, read_all_parameters(reader, profile));
  const ArchiveShape& shape = reader.shape();
  const auto chunks = chunks_of(shape);
  TileEntropy total;
  for (uint32_t c = 0; c < chunks.size(); ++c) {
    const ChunkShape& chunk = chunks[c];
    KVPACK_ASSIGN_OR_RETURN(const std::vector<Bytes> tiles, reader.block_tiles(0, c));
    const auto positions =
        std::span(shape.token_sets[chunk.token_set].positions).subspan(chunk.first_token, chunk.tokens);
    for (const LayerPlanes& layer : layers_of_chunk(shape.planes, chunk.first_plane, chunk.planes)) {
      std::vector<int8_t> key_classes;
      for (const uint32_t p : layer.planes) {
        const TileContext context{shape.planes[p], parameters[p], nullptr, positions, {}};
        KVPACK_RETURN_IF_ERROR(add_tile(context, tiles[p - chunk.first_plane], key_classes, total));
      }
    }
  }
  return total;
}

}  // namespace kvpack
