// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <limits>

#include "formats/archive.h"
#include "formats/archive_layout.h"
#include "formats/archive_shape.h"
#include "formats/checksum.h"
#include "formats/tile_store.h"
#include "formats/zstd_frame.h"

namespace kvpack {
namespace {

// From the writer's side a contradiction is the caller's.
Status as_argument_error(Status status) {
  if (status.ok() || status.error().kind != ErrorKind::kCorrupt) return status;
  return invalid_argument(status.error().message);
}

struct StoredSection {
  SectionEntry entry;
  Bytes bytes;
};

Result<StoredSection> store_section(SectionKind kind, ByteSpan raw) {
  KVPACK_ASSIGN_OR_RETURN(Bytes stored, zstd_compress(raw));
  if (stored.size() >= raw.size()) stored.assign(raw.begin(), raw.end());
  StoredSection section;
  section.entry = {kind, 0, stored.size(), raw.size(), xxh3_64(stored)};
  section.bytes = std::move(stored);
  return section;
}

ArchiveHeader make_header(ByteSpan directory, uint64_t content_bytes) {
  ArchiveHeader header;
  header.archive_id = xxh3_128(directory);
  header.directory_bytes = directory.size();
  header.directory_checksum = xxh3_64(directory);
  header.file_bytes = kHeaderBytes + 2 * directory.size() + content_bytes + kFooterBytes;
  return header;
}

}  // namespace

ArchiveWriter::ArchiveWriter(ArchiveShape shape, uint32_t levels, TileKeeping keeping, const std::string& spill_folder)
    : shape_(std::move(shape)), levels_(levels), store_(std::make_unique<TileStore>(keeping, spill_folder)) {
  shape_status_ = as_argument_error(validate_shape(shape_));
  if (!shape_status_.ok()) return;
  // Again with the levels and the most sections there can be: what is begun can then be finished.
  shape_status_ =
      as_argument_error(validate_counts(levels_, kMaxSections, shape_.chunk_tokens, token_set_counts(shape_)));
  if (!shape_status_.ok()) return;
  chunks_ = chunks_of(shape_);
  tiles_.resize(levels_ * chunks_.size());
  for (size_t i = 0; i < tiles_.size(); ++i) tiles_[i].resize(chunks_[i % chunks_.size()].planes);
}

ArchiveWriter::~ArchiveWriter() = default;

Status ArchiveWriter::set_section(SectionKind kind, Bytes raw) {
  KVPACK_RETURN_IF_ERROR(shape_status_);
  if (kind <= SectionKind::kShape || kind > SectionKind::kProfile) {
    return invalid_argument(fmt::format("{} cannot be set", section_name(kind)));
  }
  if (raw.size() > kMaxSectionBytes) {
    return limit_exceeded(
        fmt::format("{}: {} bytes, at most {} allowed", section_name(kind), raw.size(), kMaxSectionBytes));
  }
  if (raw.empty()) {
    sections_.erase(kind);
  } else {
    sections_[kind] = std::move(raw);
  }
  return {};
}

Status ArchiveWriter::add_tile(uint32_t chunk, uint32_t plane, uint32_t level, Bytes bytes, float distortion) {
  KVPACK_RETURN_IF_ERROR(shape_status_);
  if (level >= levels_ || chunk >= chunks_.size() || plane >= chunks_[chunk].planes) {
    return invalid_argument(fmt::format("no tile at level {} chunk {} plane {}", level, chunk, plane));
  }
  Tile& tile = tiles_[level * chunks_.size() + chunk][plane];
  const std::string where = fmt::format("level {} chunk {} plane {}", level, chunk, plane);
  if (tile.present) return invalid_argument(where + ": a second tile");
  if (bytes.size() > kMaxTileBytes) {
    return limit_exceeded(fmt::format("{}: tile of {} bytes, at most {} allowed", where, bytes.size(), kMaxTileBytes));
  }
  if (!(distortion >= 0) || distortion > std::numeric_limits<float>::max()) {
    return invalid_argument(fmt::format("{}: distortion {}", where, distortion));
  }
  tile.entry = {static_cast<uint32_t>(bytes.size()), distortion, store_->keeps_bytes() ? xxh3_64(bytes) : 0};
  KVPACK_ASSIGN_OR_RETURN(tile.kept_at, store_->add(std::move(bytes)));
  tile.present = true;
  return {};
}

Status ArchiveWriter::write_blocks(const std::vector<Bytes>& indices, ByteSink& sink) {
  Bytes buffer;
  for (size_t i = 0; i < tiles_.size(); ++i) {
    KVPACK_RETURN_IF_ERROR(sink.write(indices[i]));
    for (const Tile& tile : tiles_[i]) {
      KVPACK_ASSIGN_OR_RETURN(const ByteSpan bytes, store_->load(tile.kept_at, tile.entry.bytes, buffer));
      KVPACK_RETURN_IF_ERROR(sink.write(bytes));
    }
  }
  return {};
}

Result<ArchiveSizes> ArchiveWriter::finish(ByteSink& sink) {
  KVPACK_RETURN_IF_ERROR(shape_status_);
  DirectoryTables tables;
  tables.levels = levels_;
  tables.chunk_tokens = shape_.chunk_tokens;
  tables.token_sets = token_set_counts(shape_);
  tables.values = shape_values(shape_);
  uint64_t content_bytes = 0;

  std::vector<Bytes> sections;
  sections_[SectionKind::kShape] = encode_shape(shape_);
  for (const auto& [kind, raw] : sections_) {
    KVPACK_ASSIGN_OR_RETURN(StoredSection section, store_section(kind, raw));
    content_bytes += section.bytes.size();
    tables.sections.push_back(section.entry);
    sections.push_back(std::move(section.bytes));
  }
  ArchiveSizes sizes;
  sizes.level_bytes.resize(levels_);
  std::vector<Bytes> indices;
  for (size_t i = 0; i < tiles_.size(); ++i) {
    std::vector<TileEntry> entries;
    uint64_t bytes = tiles_[i].size() * kTileEntryBytes;
    for (const Tile& tile : tiles_[i]) {
      if (!tile.present) {
        return invalid_argument(fmt::format("level {} chunk {}: the tile of plane {} is missing", i / chunks_.size(),
                                            i % chunks_.size(), entries.size()));
      }
      entries.push_back(tile.entry);
      bytes += tile.entry.bytes;
    }
    const float distortion = block_distortion(entries);
    if (bytes > std::numeric_limits<uint32_t>::max() || !(distortion <= std::numeric_limits<float>::max())) {
      return limit_exceeded(fmt::format("level {} chunk {}: block of {} bytes and distortion {}, too large for 32 bits",
                                        i / chunks_.size(), i % chunks_.size(), bytes, distortion));
    }
    indices.push_back(encode_block_index(entries));
    tables.blocks.push_back({0, static_cast<uint32_t>(bytes), distortion, xxh3_64(indices.back())});
    sizes.level_bytes[i / chunks_.size()] += bytes;
  }
  const uint64_t blocks_at = content_bytes;
  for (const uint64_t bytes : sizes.level_bytes) content_bytes += bytes;

  const Bytes directory = encode_directory(tables);
  ArchiveHeader header = make_header(directory, content_bytes);
  header.required_features = required_features_;
  sizes.bytes = header.file_bytes;
  uint64_t end = kHeaderBytes + directory.size() + blocks_at;
  for (const uint64_t bytes : sizes.level_bytes) sizes.level_ends.push_back(end += bytes);
  if (!store_->keeps_bytes()) return sizes;
  sink.expect(sizes.bytes);
  KVPACK_RETURN_IF_ERROR(sink.write(encode_header(header)));
  KVPACK_RETURN_IF_ERROR(sink.write(directory));
  for (const Bytes& section : sections) KVPACK_RETURN_IF_ERROR(sink.write(section));
  KVPACK_RETURN_IF_ERROR(write_blocks(indices, sink));
  KVPACK_RETURN_IF_ERROR(sink.write(directory));
  KVPACK_RETURN_IF_ERROR(sink.write(encode_footer(header)));
  return sizes;
}

}  // namespace kvpack
