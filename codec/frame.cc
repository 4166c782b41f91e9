// SPDX-License-Identifier: Apache-2.0
// Frame header, little-endian:
//
//   0  u8[8]  magic 8B 'K' 'V' 'F' CR LF 1A LF       32  u32  tokens
//   8  u16    major (1)                              36  u32  planes
//   10 u16    levels (1..8)                          40  u64  values
//   12 u32    shape_bytes                            48  u64  xxh3-64 of all bytes after the header
//   16 u64    required feature bits (0)              56  u64  xxh3-64 of the header's first 56 bytes
//   24 u64    frame_bytes, header included
#include "codec/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "codec/outliers.h"
#include "codec/parameter_choice.h"
#include "codec/rate_control.h"
#include "codec/tile.h"
#include "formats/archive_shape.h"
#include "formats/checksum.h"

namespace kvpack {
namespace {

constexpr std::array<uint8_t, 8> kFrameMagic = {0x8B, 'K', 'V', 'F', '\r', '\n', 0x1A, '\n'};
constexpr uint16_t kFrameMajor = 1;
constexpr uint64_t kFrameHeaderBytes = 64;
constexpr uint64_t kHeaderChecksumAt = 56;

struct FrameHeader {
  uint32_t levels = 0;
  uint32_t shape_bytes = 0;
  uint64_t required_features = 0;
  uint64_t frame_bytes = 0;
  TokenSetCounts counts;
  uint64_t values = 0;
  uint64_t body_checksum = 0;
};

Bytes encode_frame_header(const FrameHeader& header) {
  ByteWriter out;
  out.write_bytes(std::as_bytes(std::span(kFrameMagic)));
  out.write(kFrameMajor);
  out.write(static_cast<uint16_t>(header.levels));
  out.write(header.shape_bytes);
  out.write(header.required_features);
  out.write(header.frame_bytes);
  out.write(header.counts.tokens);
  out.write(header.counts.planes);
  out.write(header.values);
  out.write(header.body_checksum);
  out.write(xxh3_64(out.bytes()));
  return out.take();
}

Result<FrameHeader> decode_frame_header(ByteSpan frame) {
  if (frame.size() < kFrameMagic.size() || std::memcmp(frame.data(), kFrameMagic.data(), kFrameMagic.size()) != 0) {
    return not_kvpack("not a kvpack frame: the magic bytes are missing");
  }
  ByteReader in(frame, kFrameMagic.size());
  KVPACK_ASSIGN_OR_RETURN(uint16_t major, in.read<uint16_t>("frame version"));
  if (major != kFrameMajor)
    return unsupported(fmt::format("frame version {}, this build reads {}", major, kFrameMajor));
  if (frame.size() < kFrameHeaderBytes)
    return truncated(fmt::format("a frame header has {} bytes, found {}", kFrameHeaderBytes, frame.size()));
  FrameHeader header;
  KVPACK_ASSIGN_OR_RETURN(header.levels, in.read<uint16_t>("frame levels"));
  KVPACK_ASSIGN_OR_RETURN(header.shape_bytes, in.read<uint32_t>("shape bytes"));
  KVPACK_ASSIGN_OR_RETURN(header.required_features, in.read<uint64_t>("frame features"));
  KVPACK_ASSIGN_OR_RETURN(header.frame_bytes, in.read<uint64_t>("frame bytes"));
  KVPACK_ASSIGN_OR_RETURN(header.counts.tokens, in.read<uint32_t>("frame tokens"));
  KVPACK_ASSIGN_OR_RETURN(header.counts.planes, in.read<uint32_t>("frame planes"));
  KVPACK_ASSIGN_OR_RETURN(header.values, in.read<uint64_t>("frame values"));
  KVPACK_ASSIGN_OR_RETURN(header.body_checksum, in.read<uint64_t>("frame checksum"));
  KVPACK_ASSIGN_OR_RETURN(uint64_t checksum, in.read<uint64_t>("header checksum"));
  if (checksum != xxh3_64(frame.first(kHeaderChecksumAt))) return corrupt("the frame header's checksum does not match");
  const uint64_t unknown = header.required_features & ~kKnownRequiredFeatures;
  if (unknown != 0) return unsupported(fmt::format("frame needs features {:#x}", unknown));
  if (header.counts.tokens > kMaxChunkTokens || header.counts.planes > kMaxPlanes) {
    return limit_exceeded(fmt::format("frame of {} tokens and {} planes", header.counts.tokens, header.counts.planes));
  }
  if (header.levels < 1 || header.levels > kMaxLevels) return corrupt(fmt::format("frame of {} levels", header.levels));
  if (header.frame_bytes < kFrameHeaderBytes) return corrupt(fmt::format("frame of {} bytes", header.frame_bytes));
  if (header.frame_bytes > frame.size()) {
    return truncated(fmt::format("the frame has {} bytes, {} are there", header.frame_bytes, frame.size()));
  }
  return header;
}

Result<ArchiveShape> shape_of_chunk(const KvTensor& chunk, std::span<const Rope> ropes) {
  if (chunk.token_sets.size() != 1)
    return invalid_argument(fmt::format("a frame holds 1 token set, not {}", chunk.token_sets.size()));
  const auto& positions = chunk.token_sets[0].positions;
  if (positions.empty() || positions.size() > kMaxChunkTokens) {
    return invalid_argument(fmt::format("a frame holds 1 to {} tokens, not {}", kMaxChunkTokens, positions.size()));
  }
  ArchiveShape shape;
  shape.chunk_tokens = static_cast<uint32_t>(positions.size());
  shape.token_sets.push_back({chunk.token_sets[0].stream, positions});
  shape.ropes.assign(ropes.begin(), ropes.end());
  for (const KvPlane& plane : chunk.planes) {
    if (plane.view.tokens != positions.size()) {
      return invalid_argument(
          fmt::format("layer {} has {} tokens, the chunk {}", plane.layer, plane.view.tokens, positions.size()));
    }
    shape.planes.push_back({plane.layer, plane.side, 0, plane.rope, plane.view.kv_heads, plane.view.head_dim,
                            plane.view.dtype, plane.view.hadamard_block});
  }
  const Status valid = validate_shape(shape);
  if (!valid.ok()) return invalid_argument(valid.error().message);
  return shape;
}

// What the encoder settled on for one plane.
struct EncodedPlane {
  Bytes parameters;
  std::vector<Bytes> levels;
  uint64_t required_features = 0;
};

Result<EncodedPlane> encode_plane(const KvPlane& plane, const PlaneShape& shape, const Rope* rope,
                                  std::span<const int32_t> positions, std::span<const uint32_t> sinks,
                                  const FrameOptions& options) {
  ParameterChoice choice;
  PlaneParameters& parameters = choice.parameters;
  if (options.quality == Quality::kLossless) {
    parameters.lossless = true;
  } else {
    const PlaneStatistics stats =
        measure_plane(plane.view, rope, positions, sinks, options.transform != TransformChoice::kNone);
    choice = choose_parameters(stats, step_rule_of(options.quality), {}, options.transform, 0);
  }
  const TileContext context{shape, parameters, rope, positions, {}};
  const float feedback = shape.side == Side::kValue ? kValueErrorFeedback : 0.0f;
  KVPACK_ASSIGN_OR_RETURN(EncodedTile tile,
                          encode_tile(context, {plane.view, choice.forward, 0, sinks, {}, feedback}, Measuring::kNone));
  ByteWriter out;
  write_plane_parameters(parameters, out);
  return EncodedPlane{out.take(), std::move(tile.levels), tile.required_features};
}

// A frame's body, split.
struct FrameBody {
  std::vector<ByteSpan> parameters;          // [plane]
  std::vector<std::vector<ByteSpan>> tiles;  // [plane][level]
};

Result<FrameBody> split_body(ByteReader& in, uint32_t planes, uint32_t levels) {
  FrameBody body;
  for (uint32_t p = 0; p < planes; ++p) {
    KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read_varint("plane parameters size"));
    KVPACK_ASSIGN_OR_RETURN(ByteSpan blob, in.take(bytes, "plane parameters"));
    body.parameters.push_back(blob);
  }
  std::vector<uint64_t> sizes;
  for (uint32_t i = 0; i < planes * levels; ++i) {
    KVPACK_ASSIGN_OR_RETURN(uint64_t bytes, in.read_varint("tile size"));
    sizes.push_back(bytes);
  }
  body.tiles.resize(planes);
  for (uint32_t i = 0; i < planes * levels; ++i) {
    KVPACK_ASSIGN_OR_RETURN(ByteSpan tile, in.take(sizes[i], "tile"));
    body.tiles[i % planes].push_back(tile);
  }
  if (!in.at_end()) return corrupt(fmt::format("{} bytes after the frame's tiles", in.remaining()));
  return body;
}

}  // namespace

uint64_t frame_memory_bytes(const ArchiveShape& shape) {
  uint64_t largest_plane = 0;
  uint64_t coded = 0;
  uint64_t largest_matrix = 0;
  const uint64_t tokens = shape.token_sets.empty() ? 0 : shape.token_sets[0].positions.size();
  for (const PlaneShape& plane : shape.planes) {
    largest_plane = std::max(largest_plane, tokens * plane.channels());
    coded += tokens * plane.channels() * 4 + 4096;
    largest_matrix = std::max(largest_matrix, uint64_t{plane.channels()} * std::min(plane.head_dim, kMaxKltDim));
  }
  // One plane at a time: rows, components, symbols and their coder operations (48 B a value); matrices in f64, several
  // at once (64 B an element); and the coded planes.
  return largest_plane * 48 + largest_matrix * 64 + coded + (uint64_t{1} << 20);
}

uint64_t frame_bound_bytes(const ArchiveShape& shape) {
  const uint64_t tokens = shape.token_sets.empty() ? 0 : shape.token_sets[0].positions.size();
  uint64_t bound = kFrameHeaderBytes + max_shape_bytes(token_set_counts(shape));
  for (const PlaneShape& plane : shape.planes) {
    const uint64_t matrix = uint64_t{plane.channels()} * (std::min(plane.head_dim, kMaxKltDim) + 4);
    bound += tokens *
             make_row_view<const std::byte>(nullptr, plane.dtype, 1, plane.kv_heads, plane.head_dim).packed_row_bytes();
    bound += matrix + plane.channels() * 6 + plane.kv_heads * 8 + 128;
  }
  return bound;
}

Result<Bytes> encode_frame(const KvTensor& chunk, std::span<const Rope> ropes, const FrameOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(ArchiveShape shape, shape_of_chunk(chunk, ropes));
  if (frame_memory_bytes(shape) > options.max_memory_bytes) {
    return limit_exceeded(fmt::format("this chunk needs {} bytes of memory, {} are allowed", frame_memory_bytes(shape),
                                      options.max_memory_bytes));
  }
  std::vector<uint32_t> sinks;
  if (options.quality != Quality::kLossless) {
    std::vector<std::vector<float>> norms;
    for (const KvPlane& plane : chunk.planes) norms.push_back(token_norms(plane.view));
    sinks = find_sinks(norms);
  }
  const uint32_t levels = options.quality == Quality::kLossless ? 1 : step_rule_of(options.quality).levels;
  std::vector<EncodedPlane> planes;
  for (size_t p = 0; p < chunk.planes.size(); ++p) {
    const int32_t rope = shape.planes[p].rope;
    KVPACK_ASSIGN_OR_RETURN(
        EncodedPlane plane,
        encode_plane(chunk.planes[p], shape.planes[p], rope >= 0 ? &shape.ropes[static_cast<size_t>(rope)] : nullptr,
                     shape.token_sets[0].positions, sinks, options));
    plane.levels.resize(levels);
    planes.push_back(std::move(plane));
  }
  ByteWriter body;
  const Bytes shape_bytes = encode_shape(shape);
  body.write_bytes(shape_bytes);
  for (const EncodedPlane& plane : planes) {
    body.write_varint(plane.parameters.size());
    body.write_bytes(plane.parameters);
  }
  for (uint32_t level = 0; level < levels; ++level) {
    for (const EncodedPlane& plane : planes) body.write_varint(plane.levels[level].size());
  }
  for (uint32_t level = 0; level < levels; ++level) {
    for (const EncodedPlane& plane : planes) body.write_bytes(plane.levels[level]);
  }
  FrameHeader header;
  header.levels = levels;
  for (const EncodedPlane& plane : planes) header.required_features |= plane.required_features;
  header.shape_bytes = static_cast<uint32_t>(shape_bytes.size());
  header.frame_bytes = kFrameHeaderBytes + body.size();
  header.counts = {static_cast<uint32_t>(shape.token_sets[0].positions.size()), static_cast<uint32_t>(planes.size())};
  header.values = shape_values(shape);
  header.body_checksum = xxh3_64(body.bytes());
  ByteWriter frame;
  frame.write_bytes(encode_frame_header(header));
  frame.write_bytes(body.bytes());
  return frame.take();
}

Result<FrameInfo> read_frame_info(ByteSpan frame) {
  KVPACK_ASSIGN_OR_RETURN(FrameHeader header, decode_frame_header(frame));
  ByteReader in(frame.first(header.frame_bytes), kFrameHeaderBytes);
  KVPACK_ASSIGN_OR_RETURN(ByteSpan shape_bytes, in.take(header.shape_bytes, "frame shape"));
  DirectoryTables tables;
  tables.levels = header.levels;
  tables.chunk_tokens = header.counts.tokens;
  tables.token_sets = {header.counts};
  tables.values = header.values;
  KVPACK_RETURN_IF_ERROR(validate_counts(tables.levels, 1, tables.chunk_tokens, tables.token_sets));
  FrameInfo info;
  info.frame_bytes = header.frame_bytes;
  info.levels = header.levels;
  KVPACK_ASSIGN_OR_RETURN(info.shape, decode_shape(shape_bytes, tables));
  return info;
}

Status decode_frame(ByteSpan frame, uint32_t top_level, std::span<const MutableKvView> planes,
                    uint64_t max_memory_bytes) {
  KVPACK_ASSIGN_OR_RETURN(FrameHeader header, decode_frame_header(frame));
  frame = frame.first(header.frame_bytes);
  if (xxh3_64(frame.subspan(kFrameHeaderBytes)) != header.body_checksum)
    return corrupt("the frame's checksum does not match");
  KVPACK_ASSIGN_OR_RETURN(FrameInfo info, read_frame_info(frame));
  const ArchiveShape& shape = info.shape;
  if (planes.size() != shape.planes.size()) {
    return invalid_argument(fmt::format("{} planes to fill, the frame has {}", planes.size(), shape.planes.size()));
  }
  const uint64_t memory = frame_memory_bytes(shape);
  if (memory > max_memory_bytes)
    return limit_exceeded(fmt::format("this frame needs {} bytes of memory, {} are allowed", memory, max_memory_bytes));
  const auto& positions = shape.token_sets[0].positions;
  for (size_t p = 0; p < planes.size(); ++p) {
    if (planes[p].tokens < positions.size() || planes[p].kv_heads != shape.planes[p].kv_heads ||
        planes[p].head_dim != shape.planes[p].head_dim) {
      return invalid_argument(fmt::format("plane {}: room for {} x {} x {}, the frame has {} x {} x {}", p,
                                          planes[p].tokens, planes[p].kv_heads, planes[p].head_dim, positions.size(),
                                          shape.planes[p].kv_heads, shape.planes[p].head_dim));
    }
  }
  ByteReader in(frame, kFrameHeaderBytes + header.shape_bytes);
  KVPACK_ASSIGN_OR_RETURN(FrameBody body, split_body(in, static_cast<uint32_t>(planes.size()), header.levels));
  const uint32_t levels = std::min(top_level, header.levels - 1) + 1;
  for (size_t p = 0; p < planes.size(); ++p) {
    KVPACK_ASSIGN_OR_RETURN(PlaneParameters parameters,
                            read_plane_parameters(body.parameters[p], shape.planes[p], nullptr));
    if (!parameters.lossless && parameters.levels != header.levels)
      return corrupt(fmt::format("plane {} has {} levels", p, parameters.levels));
    const int32_t rope = shape.planes[p].rope;
    const TileContext context{
        shape.planes[p], parameters, rope >= 0 ? &shape.ropes[static_cast<size_t>(rope)] : nullptr, positions, {}};
    KVPACK_RETURN_IF_ERROR(decode_tile(context, std::span(body.tiles[p]).first(levels), planes[p]));
  }
  return {};
}

}  // namespace kvpack
