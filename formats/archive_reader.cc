// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "formats/archive.h"
#include "formats/archive_layout.h"
#include "formats/archive_shape.h"
#include "formats/checksum.h"
#include "formats/zstd_frame.h"

namespace kvpack {
namespace {

// A source names itself in its own errors; ours need it put before them.
template <typename T>
Result<T> in_file(const ByteSource& source, Result<T> result) {
  if (result.ok()) return result;
  return result.error().within(source.name());
}

std::string hex_of(const std::array<std::byte, 16>& id) {
  std::string text;
  for (const std::byte byte : id) text += fmt::format("{:02x}", static_cast<uint8_t>(byte));
  return text;
}

Result<Bytes> unpack_section(const SectionEntry& entry, Bytes stored) {
  const uint64_t checksum = xxh3_64(stored);
  if (checksum != entry.checksum) {
    return corrupt(fmt::format("{} at offset {}: checksum {:016x}, directory says {:016x}", section_name(entry.kind),
                               entry.offset, checksum, entry.checksum));
  }
  if (entry.stored_bytes == entry.raw_bytes) return stored;
  Result<Bytes> raw = zstd_decompress(stored, entry.raw_bytes);
  if (raw.ok()) return raw;
  return raw.error().within(fmt::format("{} at offset {}", section_name(entry.kind), entry.offset));
}

Status check_tile(ByteSpan tile, const TileEntry& entry, uint32_t level, uint32_t chunk, size_t plane) {
  const uint64_t checksum = xxh3_64(tile);
  if (checksum == entry.checksum) return {};
  return corrupt(fmt::format("level {} chunk {} plane {}: tile checksum {:016x}, index says {:016x}", level, chunk,
                             plane, checksum, entry.checksum));
}

}  // namespace

std::string section_name(SectionKind kind) {
  switch (kind) {
    case SectionKind::kShape:
      return "shape section";
    case SectionKind::kIdentity:
      return "identity section";
    case SectionKind::kTokens:
      return "tokens section";
    case SectionKind::kText:
      return "text section";
    case SectionKind::kContainer:
      return "container section";
    case SectionKind::kParameters:
      return "parameters section";
    case SectionKind::kProfile:
      return "profile section";
  }
  return fmt::format("section {}", static_cast<uint32_t>(kind));
}

uint64_t Directory::level_bytes(uint32_t level) const {
  uint64_t bytes = 0;
  for (size_t chunk = 0; chunk < chunks.size(); ++chunk) bytes += block(level, static_cast<uint32_t>(chunk)).bytes;
  return bytes;
}

Result<ArchiveReader> ArchiveReader::open(ByteSource& source) {
  ArchiveReader reader;
  reader.source_ = &source;
  reader.file_bytes_ = source.size();
  KVPACK_ASSIGN_OR_RETURN(reader.head_, source.read(0, std::min(reader.file_bytes_, kOpeningBytes)));
  KVPACK_ASSIGN_OR_RETURN(const ArchiveHeader header, in_file(source, decode_header(reader.head_, reader.file_bytes_)));
  reader.minor_version_ = header.minor;
  reader.archive_id_ = hex_of(header.archive_id);
  const uint64_t needed = claimed_opening_bytes(header, reader.head_);
  if (needed > reader.head_.size()) {
    KVPACK_ASSIGN_OR_RETURN(const Bytes rest, source.read(reader.head_.size(), needed - reader.head_.size()));
    reader.head_.insert(reader.head_.end(), rest.begin(), rest.end());
  }
  const ByteSpan directory = ByteSpan(reader.head_).subspan(kHeaderBytes, header.directory_bytes);
  KVPACK_ASSIGN_OR_RETURN(DirectoryTables tables, in_file(source, decode_directory(directory, header)));

  const SectionEntry& shape = tables.sections.front();
  KVPACK_ASSIGN_OR_RETURN(Bytes stored, reader.fetch(shape.offset, shape.stored_bytes));
  KVPACK_ASSIGN_OR_RETURN(const Bytes raw, in_file(source, unpack_section(shape, std::move(stored))));
  KVPACK_ASSIGN_OR_RETURN(reader.directory_.shape, in_file(source, decode_shape(raw, tables)));
  reader.directory_.levels = tables.levels;
  reader.directory_.sections = std::move(tables.sections);
  reader.directory_.chunks = std::move(tables.chunks);
  reader.directory_.blocks = std::move(tables.blocks);
  return reader;
}

Result<Bytes> ArchiveReader::fetch(uint64_t offset, uint64_t count) const {
  if (offset <= head_.size() && count <= head_.size() - offset) {
    const ByteSpan view = ByteSpan(head_).subspan(offset, count);
    return Bytes(view.begin(), view.end());
  }
  return source_->read(offset, count);
}

bool ArchiveReader::has_section(SectionKind kind) const {
  return std::any_of(directory_.sections.begin(), directory_.sections.end(),
                     [kind](const SectionEntry& entry) { return entry.kind == kind; });
}

Result<Bytes> ArchiveReader::section(SectionKind kind) const {
  for (const SectionEntry& entry : directory_.sections) {
    if (entry.kind != kind) continue;
    KVPACK_ASSIGN_OR_RETURN(Bytes stored, fetch(entry.offset, entry.stored_bytes));
    return in_file(*source_, unpack_section(entry, std::move(stored)));
  }
  return invalid_argument(fmt::format("{}: has no {}", source_->name(), section_name(kind)));
}

Status ArchiveReader::check_block_address(uint32_t level, uint32_t chunk) const {
  if (level < directory_.levels && chunk < directory_.chunks.size()) return {};
  return invalid_argument(fmt::format("{}: level {} chunk {}, it has {} levels of {} chunks", source_->name(), level,
                                      chunk, directory_.levels, directory_.chunks.size()));
}

Result<std::vector<TileEntry>> ArchiveReader::tile_index(uint32_t level, uint32_t chunk) const {
  KVPACK_RETURN_IF_ERROR(check_block_address(level, chunk));
  const BlockEntry& block = directory_.block(level, chunk);
  KVPACK_ASSIGN_OR_RETURN(const Bytes index, fetch(block.offset, directory_.chunks[chunk].planes * kTileEntryBytes));
  return in_file(*source_, decode_block_index(index, block));
}

Result<Bytes> ArchiveReader::tile(uint32_t level, uint32_t chunk, uint32_t plane) const {
  KVPACK_ASSIGN_OR_RETURN(const std::vector<TileEntry> index, tile_index(level, chunk));
  if (plane >= index.size()) {
    return invalid_argument(fmt::format("{}: plane {} of {}", source_->name(), plane, index.size()));
  }
  uint64_t offset = directory_.block(level, chunk).offset + index.size() * kTileEntryBytes;
  for (uint32_t i = 0; i < plane; ++i) offset += index[i].bytes;
  KVPACK_ASSIGN_OR_RETURN(Bytes bytes, fetch(offset, index[plane].bytes));
  const Status status = check_tile(bytes, index[plane], level, chunk, plane);
  if (!status.ok()) return status.error().within(source_->name());
  return bytes;
}

Result<ByteSpan> ArchiveBlock::tile(uint32_t plane) const {
  const ByteSpan view = ByteSpan(bytes).subspan(offsets[plane], index[plane].bytes);
  KVPACK_RETURN_IF_ERROR(check_tile(view, index[plane], level, chunk, plane));
  return view;
}

Result<ArchiveBlock> ArchiveReader::block(uint32_t level, uint32_t chunk) const {
  KVPACK_RETURN_IF_ERROR(check_block_address(level, chunk));
  const BlockEntry& entry = directory_.block(level, chunk);
  ArchiveBlock block{level, chunk, {}, {}, {}};
  KVPACK_ASSIGN_OR_RETURN(block.bytes, fetch(entry.offset, entry.bytes));
  uint64_t offset = directory_.chunks[chunk].planes * kTileEntryBytes;
  KVPACK_ASSIGN_OR_RETURN(block.index,
                          in_file(*source_, decode_block_index(ByteSpan(block.bytes).first(offset), entry)));
  for (const TileEntry& tile : block.index) {
    block.offsets.push_back(offset);
    offset += tile.bytes;
  }
  return block;
}

Result<std::vector<Bytes>> ArchiveReader::block_tiles(uint32_t level, uint32_t chunk) const {
  KVPACK_ASSIGN_OR_RETURN(const ArchiveBlock of, block(level, chunk));
  std::vector<Bytes> tiles;
  for (uint32_t plane = 0; plane < of.index.size(); ++plane) {
    KVPACK_ASSIGN_OR_RETURN(const ByteSpan tile, in_file(*source_, of.tile(plane)));
    tiles.emplace_back(tile.begin(), tile.end());
  }
  return tiles;
}

Status ArchiveReader::verify() const {
  KVPACK_ASSIGN_OR_RETURN(const Bytes head, source_->read(0, head_.size()));
  if (source_->size() != file_bytes_ || head != head_)
    return corrupt(source_->name() + ": changed since it was opened");
  for (const SectionEntry& entry : directory_.sections) KVPACK_RETURN_IF_ERROR(section(entry.kind));
  for (uint32_t level = 0; level < directory_.levels; ++level) {
    for (uint32_t chunk = 0; chunk < directory_.chunks.size(); ++chunk) {
      KVPACK_RETURN_IF_ERROR(block_tiles(level, chunk));
    }
  }
  return verify_trailer();
}

Status ArchiveReader::verify_trailer() const {
  KVPACK_ASSIGN_OR_RETURN(const ArchiveHeader header, in_file(*source_, decode_header(head_, file_bytes_)));
  const uint64_t footer_offset = file_bytes_ - kFooterBytes;
  const uint64_t copy_offset = footer_offset - header.directory_bytes;
  KVPACK_ASSIGN_OR_RETURN(const Bytes copy, source_->read(copy_offset, header.directory_bytes));
  if (!std::equal(copy.begin(), copy.end(), head_.begin() + kHeaderBytes)) {
    return corrupt(fmt::format("{}: the trailer's directory at offset {} differs from the header's", source_->name(),
                               copy_offset));
  }
  KVPACK_ASSIGN_OR_RETURN(const Bytes footer, source_->read(footer_offset, kFooterBytes));
  const Status status = check_footer(footer, header);
  return status.ok() ? status : status.error().within(source_->name());
}

}  // namespace kvpack
