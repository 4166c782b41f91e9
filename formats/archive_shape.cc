// SPDX-License-Identifier: Apache-2.0
// The shape section, all integers varints unless said otherwise:
//
//   ropes       count; each: style u8, first_channel, base f64, magnitude f64, inv_freq count, inv_freq f64 each
//   token sets  each: stream, first position (zigzag), then one delta >= 0 per further token
//   planes      each: layer minus the previous plane's (zigzag), side u8, rope + 1, kv_heads, head_dim, dtype u8,
//               hadamard_block
//
// The numbers of token sets, tokens and planes are the directory's. zstd removes the repetition.
#include "formats/archive_shape.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <limits>
#include <set>
#include <tuple>

namespace kvpack {
namespace {

constexpr uint32_t kMaxInvFreq = kMaxHeadDim / 2;
constexpr uint64_t kVarint32Bytes = 5;

Error too_many(std::string_view what, uint64_t found, uint64_t maximum) {
  return limit_exceeded(fmt::format("shape: {} {}, at most {} allowed", what, found, maximum));
}

Status validate_ropes(const std::vector<Rope>& ropes) {
  if (ropes.size() > kMaxRopes) return too_many("RoPE count", ropes.size(), kMaxRopes);
  for (size_t i = 0; i < ropes.size(); ++i) {
    const Rope& rope = ropes[i];
    if (rope.style > RopeStyle::kNeox) {
      return corrupt(fmt::format("shape: RoPE {}: unknown style {}", i, static_cast<uint32_t>(rope.style)));
    }
    if (rope.inv_freq.size() > kMaxInvFreq) return too_many("RoPE frequencies", rope.inv_freq.size(), kMaxInvFreq);
    bool finite = std::isfinite(rope.base) && std::isfinite(rope.magnitude);
    for (const double frequency : rope.inv_freq) finite = finite && std::isfinite(frequency);
    if (!finite) return corrupt(fmt::format("shape: RoPE {}: a base, magnitude or frequency is not finite", i));
  }
  return {};
}

Status validate_positions(const std::vector<TokenSetShape>& token_sets) {
  for (size_t set = 0; set < token_sets.size(); ++set) {
    const std::vector<int32_t>& positions = token_sets[set].positions;
    for (size_t token = 1; token < positions.size(); ++token) {
      if (positions[token] < positions[token - 1]) {
        return corrupt(fmt::format("shape: token set {}: position {} of token {} after {}, expected ascending", set,
                                   positions[token], token, positions[token - 1]));
      }
    }
  }
  return {};
}

Status validate_plane_rope(const std::vector<Rope>& ropes, const PlaneShape& plane) {
  if (plane.rope < -1 || plane.rope >= static_cast<int64_t>(ropes.size())) {
    return corrupt(fmt::format("RoPE {} of {}", plane.rope, ropes.size()));
  }
  if (plane.rope < 0) return {};
  const Rope& rope = ropes[static_cast<size_t>(plane.rope)];
  if (uint64_t{rope.first_channel} + rope.dims() > plane.head_dim) {
    return corrupt(fmt::format("RoPE {} turns channels {} to {} of a head of {}", plane.rope, rope.first_channel,
                               uint64_t{rope.first_channel} + rope.dims(), plane.head_dim));
  }
  return {};
}

Status validate_plane(const ArchiveShape& shape, const PlaneShape& plane) {
  if (plane.layer >= kMaxLayers) return too_many("layer index", plane.layer, kMaxLayers - 1);
  if (plane.side > Side::kValue) return corrupt(fmt::format("unknown side {}", static_cast<uint32_t>(plane.side)));
  if (plane.kv_heads == 0 || plane.head_dim == 0) {
    return corrupt(fmt::format("{} heads of {} channels, expected at least 1", plane.kv_heads, plane.head_dim));
  }
  if (plane.kv_heads > kMaxKvHeads) return too_many("KV heads", plane.kv_heads, kMaxKvHeads);
  if (plane.head_dim > kMaxHeadDim) return too_many("head_dim", plane.head_dim, kMaxHeadDim);
  if (!dtype_is_known(static_cast<int32_t>(plane.dtype))) {
    return corrupt(fmt::format("unknown dtype {}", static_cast<uint32_t>(plane.dtype)));
  }
  const uint32_t block_values = dtype_block_values(plane.dtype);
  if (plane.channels() % block_values != 0) {
    return corrupt(fmt::format("{} channels are not whole {} blocks of {}", plane.channels(), dtype_name(plane.dtype),
                               block_values));
  }
  const uint32_t hadamard = plane.hadamard_block;
  if (hadamard != 0 && (!std::has_single_bit(hadamard) || plane.channels() % hadamard != 0)) {
    return corrupt(fmt::format("Hadamard block of {} for {} channels", hadamard, plane.channels()));
  }
  return validate_plane_rope(shape.ropes, plane);
}

Status validate_planes(const ArchiveShape& shape) {
  std::set<std::tuple<uint32_t, uint32_t, Side>> seen;
  uint32_t token_set = 0;
  for (size_t i = 0; i < shape.planes.size(); ++i) {
    const PlaneShape& plane = shape.planes[i];
    const std::string where = fmt::format("shape: plane {}", i);
    if (plane.token_set >= shape.token_sets.size() || plane.token_set < token_set) {
      return corrupt(fmt::format("{}: token set {} of {} after {}, expected ascending", where, plane.token_set,
                                 shape.token_sets.size(), token_set));
    }
    token_set = plane.token_set;
    const Status status = validate_plane(shape, plane);
    if (!status.ok()) return status.error().within(where);
    if (!seen.insert({plane.token_set, plane.layer, plane.side}).second) {
      return corrupt(fmt::format("{}: layer {} {} of token set {} a second time", where, plane.layer,
                                 side_name(plane.side), plane.token_set));
    }
  }
  return {};
}

// Overflow cannot happen: 2^14 planes x 2^24 tokens x 2^10 heads x 2^13 channels is 2^61.
static_assert(double{kMaxPlanes} * kMaxTokensPerSet * kMaxKvHeads * kMaxHeadDim <= 0x1p61);

Result<uint32_t> read_u32(ByteReader& reader, std::string_view what,
                          uint32_t maximum = std::numeric_limits<uint32_t>::max()) {
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const uint64_t value, reader.read_varint(what));
  if (value > maximum) {
    return limit_exceeded(fmt::format("{} at offset {} is {}, at most {} allowed", what, at, value, maximum));
  }
  return static_cast<uint32_t>(value);
}

Result<Rope> decode_rope(ByteReader& reader) {
  Rope rope;
  KVPACK_ASSIGN_OR_RETURN(const uint8_t style, reader.read<uint8_t>("RoPE style"));
  rope.style = static_cast<RopeStyle>(style);
  KVPACK_ASSIGN_OR_RETURN(rope.first_channel, read_u32(reader, "RoPE first channel"));
  KVPACK_ASSIGN_OR_RETURN(rope.base, reader.read<double>("RoPE base"));
  KVPACK_ASSIGN_OR_RETURN(rope.magnitude, reader.read<double>("RoPE magnitude"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t count, read_u32(reader, "RoPE frequency count", kMaxInvFreq));
  KVPACK_ASSIGN_OR_RETURN(const ByteSpan values, reader.take(count * sizeof(double), "RoPE frequencies"));
  rope.inv_freq.resize(count);
  if (count > 0) std::memcpy(rope.inv_freq.data(), values.data(), values.size());
  return rope;
}

Result<TokenSetShape> decode_token_set(ByteReader& reader, uint32_t tokens) {
  TokenSetShape set;
  KVPACK_ASSIGN_OR_RETURN(set.stream, read_u32(reader, "stream"));
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(int64_t position, reader.read_signed_varint("first position"));
  // A token takes at least a byte, so the bytes left bound what is allocated.
  if (reader.remaining() < tokens - 1) {
    return corrupt(fmt::format("{} positions at offset {} in {} bytes", tokens, at, reader.remaining()));
  }
  set.positions.reserve(tokens);
  for (uint32_t token = 0;; ++token) {
    if (position < std::numeric_limits<int32_t>::min() || position > std::numeric_limits<int32_t>::max()) {
      return corrupt(fmt::format("position {} of token {} is not a 32-bit number", position, token));
    }
    set.positions.push_back(static_cast<int32_t>(position));
    if (token + 1 == tokens) return set;
    KVPACK_ASSIGN_OR_RETURN(const uint32_t delta, read_u32(reader, "position delta"));
    position += delta;
  }
}

Result<PlaneShape> decode_plane(ByteReader& reader, int64_t previous_layer) {
  PlaneShape plane;
  KVPACK_ASSIGN_OR_RETURN(const int64_t layer_delta, reader.read_signed_varint("layer"));
  int64_t layer = 0;
  if (__builtin_add_overflow(previous_layer, layer_delta, &layer) || layer < 0 || layer >= kMaxLayers) {
    return limit_exceeded(
        fmt::format("layer {} + {}, at most {} allowed", previous_layer, layer_delta, kMaxLayers - 1));
  }
  plane.layer = static_cast<uint32_t>(layer);
  KVPACK_ASSIGN_OR_RETURN(const uint8_t side, reader.read<uint8_t>("side"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t rope, read_u32(reader, "RoPE index", kMaxRopes));
  KVPACK_ASSIGN_OR_RETURN(plane.kv_heads, read_u32(reader, "KV heads", kMaxKvHeads));
  KVPACK_ASSIGN_OR_RETURN(plane.head_dim, read_u32(reader, "head_dim", kMaxHeadDim));
  KVPACK_ASSIGN_OR_RETURN(const uint8_t dtype, reader.read<uint8_t>("dtype"));
  KVPACK_ASSIGN_OR_RETURN(plane.hadamard_block, read_u32(reader, "Hadamard block"));
  plane.side = static_cast<Side>(side);
  plane.rope = static_cast<int32_t>(rope) - 1;
  plane.dtype = static_cast<DType>(dtype);
  return plane;
}

Result<ArchiveShape> decode_fields(ByteReader& reader, const DirectoryTables& tables) {
  ArchiveShape shape;
  shape.chunk_tokens = tables.chunk_tokens;
  KVPACK_ASSIGN_OR_RETURN(const uint32_t ropes, read_u32(reader, "RoPE count", kMaxRopes));
  for (uint32_t i = 0; i < ropes; ++i) {
    KVPACK_ASSIGN_OR_RETURN(Rope rope, decode_rope(reader));
    shape.ropes.push_back(std::move(rope));
  }
  for (const TokenSetCounts& counts : tables.token_sets) {
    KVPACK_ASSIGN_OR_RETURN(TokenSetShape set, decode_token_set(reader, counts.tokens));
    shape.token_sets.push_back(std::move(set));
  }
  int64_t layer = 0;
  for (uint32_t set = 0; set < tables.token_sets.size(); ++set) {
    for (uint32_t i = 0; i < tables.token_sets[set].planes; ++i) {
      KVPACK_ASSIGN_OR_RETURN(PlaneShape plane, decode_plane(reader, layer));
      plane.token_set = set;
      layer = plane.layer;
      shape.planes.push_back(plane);
    }
  }
  if (!reader.at_end()) return corrupt(fmt::format("{} bytes after the last plane", reader.remaining()));
  return shape;
}

}  // namespace

std::vector<ChunkShape> chunks_of(const ArchiveShape& shape) {
  return chunks_of_counts(token_set_counts(shape), shape.chunk_tokens);
}

std::vector<TokenSetCounts> token_set_counts(const ArchiveShape& shape) {
  std::vector<TokenSetCounts> counts;
  for (const TokenSetShape& set : shape.token_sets) counts.push_back({static_cast<uint32_t>(set.positions.size()), 0});
  for (const PlaneShape& plane : shape.planes) {
    if (plane.token_set < counts.size()) ++counts[plane.token_set].planes;
  }
  return counts;
}

Status validate_shape(const ArchiveShape& shape) {
  KVPACK_RETURN_IF_ERROR(validate_counts(1, 1, shape.chunk_tokens, token_set_counts(shape)));
  KVPACK_RETURN_IF_ERROR(validate_ropes(shape.ropes));
  KVPACK_RETURN_IF_ERROR(validate_positions(shape.token_sets));
  return validate_planes(shape);
}

uint64_t shape_values(const ArchiveShape& shape) {
  uint64_t values = 0;
  for (const PlaneShape& plane : shape.planes) {
    values += uint64_t{plane.channels()} * shape.token_sets[plane.token_set].positions.size();
  }
  return values;
}

uint64_t max_shape_bytes(const std::vector<TokenSetCounts>& token_sets) {
  constexpr uint64_t kMostRopeBytes = 1 + 2 * kVarint32Bytes + 16 + 8 * kMaxInvFreq;
  constexpr uint64_t kMostPlaneBytes = 2 + 5 * kVarint32Bytes;
  uint64_t bytes = kVarint32Bytes + kMaxRopes * kMostRopeBytes;
  for (const TokenSetCounts& counts : token_sets) {
    bytes += kVarint32Bytes + counts.tokens * kVarint32Bytes + counts.planes * kMostPlaneBytes;
  }
  return bytes;
}

Bytes encode_shape(const ArchiveShape& shape) {
  ByteWriter writer;
  writer.write_varint(shape.ropes.size());
  for (const Rope& rope : shape.ropes) {
    writer.write(static_cast<uint8_t>(rope.style));
    writer.write_varint(rope.first_channel);
    writer.write(rope.base);
    writer.write(rope.magnitude);
    writer.write_varint(rope.inv_freq.size());
    for (const double frequency : rope.inv_freq) writer.write(frequency);
  }
  for (const TokenSetShape& set : shape.token_sets) {
    writer.write_varint(set.stream);
    writer.write_signed_varint(set.positions.front());
    for (size_t token = 1; token < set.positions.size(); ++token) {
      writer.write_varint(static_cast<uint64_t>(int64_t{set.positions[token]} - set.positions[token - 1]));
    }
  }
  int64_t layer = 0;
  for (const PlaneShape& plane : shape.planes) {
    writer.write_signed_varint(plane.layer - layer);
    writer.write(static_cast<uint8_t>(plane.side));
    writer.write_varint(static_cast<uint64_t>(int64_t{plane.rope} + 1));
    writer.write_varint(plane.kv_heads);
    writer.write_varint(plane.head_dim);
    writer.write(static_cast<uint8_t>(plane.dtype));
    writer.write_varint(plane.hadamard_block);
    layer = plane.layer;
  }
  return writer.take();
}

Result<ArchiveShape> decode_shape(ByteSpan section, const DirectoryTables& tables) {
  ByteReader reader(section);
  Result<ArchiveShape> shape = decode_fields(reader, tables);
  if (!shape.ok()) {
    // The section is all there, so running off its end is a contradiction and not a short file.
    Error error = shape.error().within("shape");
    if (error.kind == ErrorKind::kTruncated) error.kind = ErrorKind::kCorrupt;
    return error;
  }
  KVPACK_RETURN_IF_ERROR(validate_shape(*shape));
  if (shape_values(*shape) != tables.values) {
    return corrupt(fmt::format("shape: {} values, directory says {}", shape_values(*shape), tables.values));
  }
  return shape;
}

}  // namespace kvpack
