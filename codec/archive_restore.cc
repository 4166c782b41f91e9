// SPDX-License-Identifier: Apache-2.0
// .kvp -> the same file: in memory, or in parts at their places.
#include <fmt/format.h>

#include "codec/archive_chunks.h"
#include "codec/archive_codec.h"
#include "formats/placed_rows.h"

namespace kvpack {
namespace {

bool everything(const ChunkShape&, const PlaneShape&) { return true; }

// The planes come from the container; the archive's shape must describe the same ones.
Status match_planes(const ArchiveShape& shape, std::vector<MutableKvView>& planes) {
  if (planes.size() != shape.planes.size()) {
    return corrupt(fmt::format("the container has {} planes, the shape {}", planes.size(), shape.planes.size()));
  }
  for (size_t p = 0; p < shape.planes.size(); ++p) {
    const PlaneShape& plane = shape.planes[p];
    MutableKvView& view = planes[p];
    const size_t tokens = shape.token_sets[plane.token_set].positions.size();
    if (view.tokens != tokens || view.channels() != plane.channels() || view.dtype != plane.dtype) {
      return corrupt(fmt::format("plane {}: the container has {} tokens x {} {} values, the shape {} x {} {}", p,
                                 view.tokens, view.channels(), dtype_name(view.dtype), tokens, plane.channels(),
                                 dtype_name(plane.dtype)));
    }
    if (view.head_dim == plane.head_dim) continue;
    // A container without model facts sees one head as wide as the row: split it as the shape says.
    if (view.kv_heads != 1)
      return corrupt(fmt::format("plane {}: heads of {} and {} channels", p, view.head_dim, plane.head_dim));
    view.kv_heads = plane.kv_heads;
    view.head_dim = plane.head_dim;
    view.head_stride = plane.head_dim * view.channel_stride;
  }
  return {};
}

// The container section as a layout, its planes those of the archive's shape.
struct SourceLayout {
  Bytes container;
  KvFileLayout layout;
};

Result<std::unique_ptr<SourceLayout>> read_source_layout(const ArchiveReader& reader) {
  KVPACK_ASSIGN_OR_RETURN(ArchiveIdentity identity, read_identity(reader));
  if (!reader.has_section(SectionKind::kContainer)) return corrupt("the archive has no container section");
  auto source = std::make_unique<SourceLayout>();
  KVPACK_ASSIGN_OR_RETURN(source->container, reader.section(SectionKind::kContainer));
  KvReadOptions options;
  options.hadamard_rotated = identity.hadamard_rotated;
  KVPACK_ASSIGN_OR_RETURN(source->layout, read_container(identity.source_format, source->container, options));
  std::vector<MutableKvView>& planes = source->layout.planes;
  KVPACK_RETURN_IF_ERROR(match_planes(reader.shape(), planes));
  for (size_t p = 0; p < planes.size(); ++p) planes[p].hadamard_block = reader.shape().planes[p].hadamard_block;
  return source;
}

Result<Bytes> restore_in_memory(const ArchiveReader& reader, const DecodeOptions& options, KvFileLayout layout) {
  KVPACK_ASSIGN_OR_RETURN(const KvFileImage image, image_of(std::move(layout)));
  TileSink sink;
  sink.rows = [&](const ChunkShape& chunk, uint32_t plane, Bytes&) {
    return slice_tokens(image.planes[plane], chunk.first_token, chunk.tokens);
  };
  KVPACK_RETURN_IF_ERROR(for_each_tile(reader, options, everything, sink));
  return std::move(*image.bytes);
}

}  // namespace

Result<Bytes> restore_file(const ArchiveReader& reader, const DecodeOptions& options) {
  KVPACK_ASSIGN_OR_RETURN(const auto source, read_source_layout(reader));
  return restore_in_memory(reader, options, std::move(source->layout));
}

Result<uint64_t> restore_file(const ArchiveReader& reader, const DecodeOptions& options, PlacedSink& file) {
  KVPACK_ASSIGN_OR_RETURN(const auto source, read_source_layout(reader));
  KvFileLayout& layout = source->layout;
  const uint64_t file_bytes = layout.bytes;
  KVPACK_RETURN_IF_ERROR(file.set_size(file_bytes));
  std::vector<PlacedRows> planes;
  bool in_runs = true;
  for (size_t p = 0; p < layout.planes.size(); ++p) {
    planes.emplace_back(layout.planes[p], layout.plane_offsets[p]);
    in_runs = in_runs && planes.back().in_runs();
  }
  if (!in_runs) {
    KVPACK_ASSIGN_OR_RETURN(const Bytes bytes, restore_in_memory(reader, options, std::move(layout)));
    KVPACK_RETURN_IF_ERROR(file.write_at(0, bytes));
    return file_bytes;
  }
  for (const auto& [offset, bytes] : layout.pieces) KVPACK_RETURN_IF_ERROR(file.write_at(offset, bytes));
  TileSink sink;
  sink.rows = [&](const ChunkShape& chunk, uint32_t plane, Bytes& scratch) {
    return planes[plane].view(chunk.tokens, scratch);
  };
  sink.finished = [&](const ChunkShape& chunk, uint32_t plane, const Bytes& scratch) {
    return planes[plane].write(chunk.first_token, chunk.tokens, scratch, file);
  };
  KVPACK_RETURN_IF_ERROR(for_each_tile(reader, options, everything, sink));
  return file_bytes;
}

}  // namespace kvpack
