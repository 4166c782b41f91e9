// SPDX-License-Identifier: Apache-2.0
// The container of a llama.cpp file: everything but the values, and how to read it.
//
//   version u8 = 1 | flags u8 (bit 0: the heads come from a model's facts) | total_bytes varint
//   n_blocks varint; per block: kind u8, flags u8 (1 ext, 2 has_v, 4 ple), recurrent_layers varint
//   n_planes varint; per plane, in KvTensor's order: kv_heads, head_dim, hadamard_block varint
//   skeleton: the file with every plane's data cut out
//
// Where the cuts were is not stored: reading the skeleton with the recorded blocks yields them, so a forged container
// cannot place a plane where the file's own structure does not.
#include <fmt/format.h>

#include "formats/kv_planes.h"
#include "formats/llama_state.h"

namespace kvpack {
namespace {

constexpr uint8_t kContainerVersion = 1;

// Plane data in file order, as (offset, bytes).
std::vector<std::pair<uint64_t, uint64_t>> plane_extents(const LlamaState& state) {
  std::vector<std::pair<uint64_t, uint64_t>> extents;
  for (const LlamaBlock& block : state.blocks) {
    for (const LlamaStream& stream : block.streams) {
      for (const LlamaPlane& plane : stream.keys) extents.emplace_back(plane.offset, plane.bytes);
      for (const LlamaPlane& plane : stream.values) extents.emplace_back(plane.offset, plane.bytes);
    }
  }
  return extents;
}

Result<std::vector<LlamaBlockShape>> read_shapes(ByteReader& reader) {
  KVPACK_ASSIGN_OR_RETURN(const uint64_t count, reader.read_varint("block count"));
  if (count > kMaxLlamaBlocks) {
    return corrupt(fmt::format("{} memory blocks, at most {} are known", count, kMaxLlamaBlocks));
  }
  std::vector<LlamaBlockShape> shapes;
  for (uint64_t i = 0; i < count; ++i) {
    KVPACK_ASSIGN_OR_RETURN(const uint8_t kind, reader.read<uint8_t>("block kind"));
    KVPACK_ASSIGN_OR_RETURN(const uint8_t flags, reader.read<uint8_t>("block flags"));
    KVPACK_ASSIGN_OR_RETURN(const uint64_t layers, reader.read_varint("recurrent layers"));
    if (kind > static_cast<uint8_t>(LlamaBlockKind::kDsv4Tail) || flags > 7 || layers > kMaxLayers) {
      return corrupt(fmt::format("memory block {}: kind {}, flags {}, {} recurrent layers", i, kind, flags, layers));
    }
    shapes.push_back({static_cast<LlamaBlockKind>(kind), (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0,
                      static_cast<uint32_t>(layers)});
  }
  return shapes;
}

struct PlaneHeads {
  uint64_t kv_heads = 0;
  uint64_t head_dim = 0;
  uint64_t hadamard_block = 0;
};

Result<std::vector<PlaneHeads>> read_heads(ByteReader& reader) {
  KVPACK_ASSIGN_OR_RETURN(const uint64_t count, reader.read_varint("plane count"));
  if (count > reader.remaining() / 3) {
    return truncated(fmt::format("{} planes in the {} bytes left of the container", count, reader.remaining()));
  }
  std::vector<PlaneHeads> heads(count);
  for (PlaneHeads& plane : heads) {
    KVPACK_ASSIGN_OR_RETURN(plane.kv_heads, reader.read_varint("kv_heads"));
    KVPACK_ASSIGN_OR_RETURN(plane.head_dim, reader.read_varint("head_dim"));
    KVPACK_ASSIGN_OR_RETURN(plane.hadamard_block, reader.read_varint("hadamard_block"));
  }
  return heads;
}

Status apply_heads(LlamaPlanes& planes, const std::vector<PlaneHeads>& heads) {
  if (heads.size() != planes.planes.size()) {
    return corrupt(fmt::format("{} planes are described, the file has {}", heads.size(), planes.planes.size()));
  }
  for (size_t i = 0; i < heads.size(); ++i) {
    LlamaPlaneSpec& spec = planes.planes[i];
    const auto& [kv_heads, head_dim, block] = heads[i];
    uint64_t channels = 0;
    if (!checked_mul(kv_heads, head_dim, &channels) || channels != spec.stored.row_values) {
      return corrupt(fmt::format("plane {}: {} heads x {}, its rows hold {} values", i, kv_heads, head_dim,
                                 spec.stored.row_values));
    }
    const bool power_of_two = (block & (block - 1)) == 0;
    if (block != 0 && (!power_of_two || channels % block != 0 || !dtype_is_quantized(spec.stored.dtype))) {
      return corrupt(fmt::format("plane {}: rotated in blocks of {} channels, rows hold {} {} values", i, block,
                                 channels, dtype_name(spec.stored.dtype)));
    }
    spec.kv_heads = static_cast<uint32_t>(kv_heads);
    spec.head_dim = static_cast<uint32_t>(head_dim);
    spec.hadamard_block = static_cast<uint32_t>(block);
  }
  return {};
}

}  // namespace

Bytes write_llama_container(ByteSpan file, const LlamaState& state, const LlamaPlanes& planes, bool heads_known) {
  ByteWriter writer;
  writer.write(kContainerVersion);
  writer.write(static_cast<uint8_t>(heads_known ? 1 : 0));
  writer.write_varint(file.size());
  writer.write_varint(state.blocks.size());
  for (const LlamaBlock& block : state.blocks) {
    const LlamaBlockShape& shape = block.shape;
    writer.write(static_cast<uint8_t>(shape.kind));
    writer.write(static_cast<uint8_t>((shape.ext ? 1 : 0) | (shape.has_v ? 2 : 0) | (shape.ple ? 4 : 0)));
    writer.write_varint(shape.recurrent_layers);
  }
  writer.write_varint(planes.planes.size());
  for (const LlamaPlaneSpec& spec : planes.planes) {
    writer.write_varint(spec.kv_heads);
    writer.write_varint(spec.head_dim);
    writer.write_varint(spec.hadamard_block);
  }
  uint64_t at = 0;
  for (const auto& [offset, bytes] : plane_extents(state)) {
    writer.write_bytes(file.subspan(at, offset - at));
    at = offset + bytes;
  }
  writer.write_bytes(file.subspan(at));
  return writer.take();
}

Result<LlamaContainer> read_llama_container(ByteSpan container, uint64_t max_bytes) {
  ByteReader reader(container);
  KVPACK_ASSIGN_OR_RETURN(const uint8_t version, reader.read<uint8_t>("container version"));
  if (version != kContainerVersion) {
    return unsupported(fmt::format("llama.cpp container of version {}, known is {}", version, kContainerVersion));
  }
  KVPACK_ASSIGN_OR_RETURN(const uint8_t flags, reader.read<uint8_t>("container flags"));
  if (flags > 1) return unsupported(fmt::format("llama.cpp container with unknown flags {:#x}", flags));
  KVPACK_ASSIGN_OR_RETURN(const uint64_t total_bytes, reader.read_varint("file size"));
  KVPACK_ASSIGN_OR_RETURN(const std::vector<LlamaBlockShape> shapes, read_shapes(reader));
  KVPACK_ASSIGN_OR_RETURN(const std::vector<PlaneHeads> heads, read_heads(reader));
  LlamaContainer result;
  result.heads_known = (flags & 1) != 0;
  KVPACK_ASSIGN_OR_RETURN(result.skeleton, reader.take(reader.remaining(), "skeleton"));
  StateReader skeleton(result.skeleton, StateReader::Mode::kSkeleton, max_bytes);
  auto state = read_llama_state_as(skeleton, shapes);
  if (!state.ok()) return state.error().within("skeleton");
  result.state = std::move(*state);
  if (result.state.total_bytes != total_bytes) {
    return corrupt(fmt::format("the container describes a file of {} bytes and holds one of {}", total_bytes,
                               result.state.total_bytes));
  }
  result.planes = list_llama_planes(result.state);
  KVPACK_RETURN_IF_ERROR(apply_heads(result.planes, heads));
  return result;
}

Result<KvFileLayout> read_llama_layout(ByteSpan container) {
  auto opened = read_llama_container(container, kMaxRebuiltFileBytes);
  if (!opened.ok()) return opened.error().within("llama.cpp container");
  KvFileLayout layout;
  layout.bytes = opened->state.total_bytes;
  uint64_t at = 0;
  uint64_t from = 0;
  const auto piece_until = [&](uint64_t offset) {
    if (offset > at) layout.pieces.push_back({at, opened->skeleton.subspan(from, offset - at)});
    from += offset - at;
  };
  for (const auto& [offset, bytes] : plane_extents(opened->state)) {
    piece_until(offset);
    at = offset + bytes;
  }
  piece_until(layout.bytes);
  layout.token_sets = std::move(opened->planes.token_sets);
  for (const LlamaPlaneSpec& spec : opened->planes.planes) {
    layout.planes.push_back(llama_plane_view<std::byte>(nullptr, spec, layout.token_sets[spec.token_set]));
    layout.plane_offsets.push_back(spec.stored.offset);
  }
  return layout;
}

}  // namespace kvpack
