// SPDX-License-Identifier: Apache-2.0
// Directory, block index, footer. The header is in archive_header.cc.
#include "formats/archive_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "formats/archive_shape.h"
#include "formats/checksum.h"

namespace kvpack {
namespace {

constexpr uint64_t kDirectoryFixedBytes = 16 + 8;  // the four counts, the number of values
constexpr uint32_t kSectionStored = 0;
constexpr uint32_t kSectionZstd = 1;

uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

bool is_valid_distortion(float distortion) { return std::isfinite(distortion) && distortion >= 0; }

Status check_count(std::string_view what, uint64_t found, uint64_t minimum, uint64_t maximum) {
  if (found > maximum) return limit_exceeded(fmt::format("{} {}, at most {} allowed", found, what, maximum));
  if (found < minimum) return corrupt(fmt::format("{} {}, at least {} expected", found, what, minimum));
  return {};
}

Result<SectionEntry> decode_section_entry(ByteReader& reader) {
  SectionEntry entry;
  const uint64_t at = reader.offset();
  KVPACK_ASSIGN_OR_RETURN(const uint32_t kind, reader.read<uint32_t>("section kind"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t flags, reader.read<uint32_t>("section flags"));
  KVPACK_ASSIGN_OR_RETURN(entry.stored_bytes, reader.read<uint64_t>("section stored bytes"));
  KVPACK_ASSIGN_OR_RETURN(entry.raw_bytes, reader.read<uint64_t>("section raw bytes"));
  KVPACK_ASSIGN_OR_RETURN(entry.checksum, reader.read<uint64_t>("section checksum"));
  entry.kind = static_cast<SectionKind>(kind);
  if (flags > kSectionZstd)
    return unsupported(fmt::format("section flags {:#x} at directory offset {}", flags, at + 4));
  if (entry.raw_bytes == 0 || entry.stored_bytes == 0) {
    return corrupt(fmt::format("empty section of kind {} at directory offset {}", kind, at));
  }
  if (entry.raw_bytes > kMaxSectionBytes) {
    return limit_exceeded(
        fmt::format("section of kind {} is {} bytes, at most {} allowed", kind, entry.raw_bytes, kMaxSectionBytes));
  }
  const bool sizes_agree =
      flags == kSectionZstd ? entry.stored_bytes < entry.raw_bytes : entry.stored_bytes == entry.raw_bytes;
  if (!sizes_agree) {
    return corrupt(fmt::format("section of kind {} ({}) stores {} bytes for {}", kind,
                               flags == kSectionZstd ? "zstd" : "raw", entry.stored_bytes, entry.raw_bytes));
  }
  return entry;
}

Status decode_sections(ByteReader& reader, uint32_t count, DirectoryTables* tables) {
  uint32_t previous = 0;
  for (uint32_t i = 0; i < count; ++i) {
    KVPACK_ASSIGN_OR_RETURN(const SectionEntry entry, decode_section_entry(reader));
    const uint32_t kind = static_cast<uint32_t>(entry.kind);
    if (kind <= previous) return corrupt(fmt::format("section kind {} after {}, expected ascending", kind, previous));
    previous = kind;
    tables->sections.push_back(entry);
  }
  const SectionEntry& first = tables->sections.front();
  if (first.kind != SectionKind::kShape) return corrupt("no shape section");
  const uint64_t most = max_shape_bytes(tables->token_sets);
  if (first.raw_bytes > most) {
    return corrupt(fmt::format("shape section of {} bytes, its counts allow {}", first.raw_bytes, most));
  }
  return {};
}

Status decode_blocks(ByteReader& reader, DirectoryTables* tables) {
  tables->blocks.reserve(tables->levels * tables->chunks.size());
  for (uint32_t level = 0; level < tables->levels; ++level) {
    for (size_t chunk = 0; chunk < tables->chunks.size(); ++chunk) {
      BlockEntry block;
      KVPACK_ASSIGN_OR_RETURN(block.bytes, reader.read<uint32_t>("block bytes"));
      KVPACK_ASSIGN_OR_RETURN(block.distortion, reader.read<float>("block distortion"));
      KVPACK_ASSIGN_OR_RETURN(block.index_checksum, reader.read<uint64_t>("block index checksum"));
      const uint64_t index_bytes = tables->chunks[chunk].planes * kTileEntryBytes;
      if (block.bytes < index_bytes || (index_bytes == 0 && block.bytes != 0)) {
        return corrupt(fmt::format("level {} chunk {}: block of {} bytes, its index alone has {}", level, chunk,
                                   block.bytes, index_bytes));
      }
      if (!is_valid_distortion(block.distortion)) {
        return corrupt(fmt::format("level {} chunk {}: distortion {}", level, chunk, block.distortion));
      }
      tables->blocks.push_back(block);
    }
  }
  return {};
}

// Everything is contiguous, so an offset is the sum of the sizes before it, and the last one must meet the file's end.
Status derive_offsets(const ArchiveHeader& header, DirectoryTables* tables) {
  uint64_t offset = kHeaderBytes + header.directory_bytes;
  const uint64_t trailer_bytes = header.directory_bytes + kFooterBytes;
  const uint64_t end = header.file_bytes - trailer_bytes;
  for (SectionEntry& section : tables->sections) {
    section.offset = offset;
    if (!checked_add(offset, section.stored_bytes, &offset) || offset > end) {
      return corrupt(fmt::format("{} of {} bytes at offset {} does not fit before the trailer at {}",
                                 section_name(section.kind), section.stored_bytes, section.offset, end));
    }
  }
  for (BlockEntry& block : tables->blocks) {
    block.offset = offset;
    if (!checked_add(offset, block.bytes, &offset) || offset > end) {
      return corrupt(fmt::format("block of {} bytes at offset {} does not fit before the trailer at {}", block.bytes,
                                 block.offset, end));
    }
  }
  if (offset != end) return corrupt(fmt::format("contents end at offset {}, the trailer begins at {}", offset, end));
  tables->trailer_offset = offset;
  return {};
}

Status decode_tables(ByteReader& reader, const ArchiveHeader& header, DirectoryTables* tables) {
  KVPACK_ASSIGN_OR_RETURN(tables->levels, reader.read<uint32_t>("levels"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t sections, reader.read<uint32_t>("section count"));
  KVPACK_ASSIGN_OR_RETURN(tables->chunk_tokens, reader.read<uint32_t>("chunk tokens"));
  KVPACK_ASSIGN_OR_RETURN(const uint32_t token_sets, reader.read<uint32_t>("token set count"));
  KVPACK_RETURN_IF_ERROR(check_count("token sets", token_sets, 0, kMaxTokenSets));
  for (uint32_t i = 0; i < token_sets; ++i) {
    TokenSetCounts counts;
    KVPACK_ASSIGN_OR_RETURN(counts.tokens, reader.read<uint32_t>("token count"));
    KVPACK_ASSIGN_OR_RETURN(counts.planes, reader.read<uint32_t>("plane count"));
    tables->token_sets.push_back(counts);
  }
  KVPACK_RETURN_IF_ERROR(validate_counts(tables->levels, sections, tables->chunk_tokens, tables->token_sets));
  const uint64_t expected = directory_bytes_of(tables->levels, sections, tables->chunk_tokens, tables->token_sets);
  if (expected != header.directory_bytes) {
    return corrupt(fmt::format("{} bytes, its counts need {}", header.directory_bytes, expected));
  }
  // From here on the bytes are known to hold every entry, so the tables below are no larger than the input.
  tables->chunks = chunks_of_counts(tables->token_sets, tables->chunk_tokens);
  KVPACK_ASSIGN_OR_RETURN(tables->values, reader.read<uint64_t>("value count"));
  KVPACK_RETURN_IF_ERROR(decode_sections(reader, sections, tables));
  KVPACK_RETURN_IF_ERROR(decode_blocks(reader, tables));
  return derive_offsets(header, tables);
}

}  // namespace

std::vector<ChunkShape> chunks_of_counts(const std::vector<TokenSetCounts>& token_sets, uint32_t chunk_tokens) {
  std::vector<ChunkShape> chunks;
  uint32_t first_plane = 0;
  for (uint32_t set = 0; set < token_sets.size() && chunk_tokens > 0; ++set) {
    const TokenSetCounts& counts = token_sets[set];
    for (uint64_t token = 0; token < counts.tokens; token += chunk_tokens) {
      const uint32_t tokens = std::min<uint32_t>(chunk_tokens, counts.tokens - static_cast<uint32_t>(token));
      chunks.push_back({set, static_cast<uint32_t>(token), tokens, first_plane, counts.planes});
    }
    first_plane += counts.planes;
  }
  return chunks;
}

Status validate_counts(uint32_t levels, uint32_t sections, uint32_t chunk_tokens,
                       const std::vector<TokenSetCounts>& token_sets) {
  KVPACK_RETURN_IF_ERROR(check_count("levels", levels, 1, kMaxLevels));
  KVPACK_RETURN_IF_ERROR(check_count("sections", sections, 1, kMaxSections));
  KVPACK_RETURN_IF_ERROR(check_count("tokens per chunk", chunk_tokens, 1, kMaxChunkTokens));
  KVPACK_RETURN_IF_ERROR(check_count("token sets", token_sets.size(), 0, kMaxTokenSets));
  uint64_t tokens = 0;
  uint64_t planes = 0;
  for (const TokenSetCounts& counts : token_sets) {
    KVPACK_RETURN_IF_ERROR(check_count("tokens in a token set", counts.tokens, 1, kMaxTokensPerSet));
    tokens += counts.tokens;
    planes += counts.planes;
  }
  KVPACK_RETURN_IF_ERROR(check_count("tokens", tokens, 0, kMaxTokens));
  KVPACK_RETURN_IF_ERROR(check_count("planes", planes, 0, kMaxPlanes));
  return check_count("directory bytes", directory_bytes_of(levels, sections, chunk_tokens, token_sets), 0,
                     kMaxDirectoryBytes);
}

uint64_t directory_bytes_of(uint32_t levels, uint32_t sections, uint32_t chunk_tokens,
                            const std::vector<TokenSetCounts>& token_sets) {
  uint64_t chunks = 0;  // at most kMaxTokenSets * 2^32, times kMaxLevels: no overflow
  for (const TokenSetCounts& counts : token_sets) chunks += ceil_div(counts.tokens, chunk_tokens);
  return kDirectoryFixedBytes + 8 * token_sets.size() + kSectionEntryBytes * sections +
         kBlockEntryBytes * levels * chunks;
}

Bytes encode_directory(const DirectoryTables& tables) {
  ByteWriter writer;
  writer.write(tables.levels);
  writer.write(static_cast<uint32_t>(tables.sections.size()));
  writer.write(tables.chunk_tokens);
  writer.write(static_cast<uint32_t>(tables.token_sets.size()));
  for (const TokenSetCounts& counts : tables.token_sets) {
    writer.write(counts.tokens);
    writer.write(counts.planes);
  }
  writer.write(tables.values);
  for (const SectionEntry& section : tables.sections) {
    writer.write(static_cast<uint32_t>(section.kind));
    writer.write(section.stored_bytes == section.raw_bytes ? kSectionStored : kSectionZstd);
    writer.write(section.stored_bytes);
    writer.write(section.raw_bytes);
    writer.write(section.checksum);
  }
  for (const BlockEntry& block : tables.blocks) {
    writer.write(block.bytes);
    writer.write(block.distortion);
    writer.write(block.index_checksum);
  }
  return writer.take();
}

Result<DirectoryTables> decode_directory(ByteSpan directory, const ArchiveHeader& header) {
  const uint64_t checksum = xxh3_64(directory);
  if (checksum != header.directory_checksum) {
    return corrupt(fmt::format("directory at offset {}: checksum {:016x}, header says {:016x}", kHeaderBytes, checksum,
                               header.directory_checksum));
  }
  if (xxh3_128(directory) != header.archive_id) return corrupt("directory does not match the archive id");
  DirectoryTables tables;
  ByteReader reader(directory);
  const Status status = decode_tables(reader, header, &tables);
  if (!status.ok()) {
    // The directory is all there, so running off its end is a contradiction and not a short file.
    Error error = status.error().within("directory");
    if (error.kind == ErrorKind::kTruncated) error.kind = ErrorKind::kCorrupt;
    return error;
  }
  return tables;
}

uint64_t claimed_opening_bytes(const ArchiveHeader& header, ByteSpan head) {
  const uint64_t directory_end = kHeaderBytes + header.directory_bytes;
  constexpr uint64_t kTokenSetsOffset = 12;
  ByteReader reader(head, kHeaderBytes + kTokenSetsOffset);
  const Result<uint32_t> token_sets = reader.read<uint32_t>("token set count");
  if (!token_sets.ok() || !reader.take(8 * uint64_t{*token_sets} + 8 + 8, "token sets").ok()) return directory_end;
  const Result<uint64_t> stored_bytes = reader.read<uint64_t>("section stored bytes");
  uint64_t end = 0;
  if (!stored_bytes.ok() || !checked_add(directory_end, *stored_bytes, &end)) return directory_end;
  return end <= header.file_bytes ? end : directory_end;
}

Bytes encode_block_index(const std::vector<TileEntry>& tiles) {
  ByteWriter writer;
  for (const TileEntry& tile : tiles) {
    writer.write(tile.bytes);
    writer.write(tile.distortion);
    writer.write(tile.checksum);
  }
  return writer.take();
}

float block_distortion(const std::vector<TileEntry>& tiles) {
  double sum = 0;
  for (const TileEntry& tile : tiles) sum += double{tile.distortion};
  return static_cast<float>(sum);
}

Result<std::vector<TileEntry>> decode_block_index(ByteSpan index, const BlockEntry& block) {
  const uint64_t checksum = xxh3_64(index);
  if (checksum != block.index_checksum) {
    return corrupt(fmt::format("block index at offset {}: checksum {:016x}, directory says {:016x}", block.offset,
                               checksum, block.index_checksum));
  }
  ByteReader reader(index);
  std::vector<TileEntry> tiles(index.size() / kTileEntryBytes);
  uint64_t bytes = index.size();
  for (TileEntry& tile : tiles) {
    KVPACK_ASSIGN_OR_RETURN(tile.bytes, reader.read<uint32_t>("tile bytes"));
    KVPACK_ASSIGN_OR_RETURN(tile.distortion, reader.read<float>("tile distortion"));
    KVPACK_ASSIGN_OR_RETURN(tile.checksum, reader.read<uint64_t>("tile checksum"));
    if (tile.bytes > kMaxTileBytes) {
      return limit_exceeded(fmt::format("tile of {} bytes, at most {} allowed", tile.bytes, kMaxTileBytes));
    }
    if (!is_valid_distortion(tile.distortion)) return corrupt(fmt::format("tile distortion {}", tile.distortion));
    bytes += tile.bytes;
  }
  if (bytes != block.bytes) {
    return corrupt(fmt::format("block at offset {}: index and tiles are {} bytes, directory says {}", block.offset,
                               bytes, block.bytes));
  }
  if (block_distortion(tiles) != block.distortion) {
    return corrupt(fmt::format("block at offset {}: its tiles' distortions add up to {}, directory says {}",
                               block.offset, block_distortion(tiles), block.distortion));
  }
  return tiles;
}

}  // namespace kvpack
