// SPDX-License-Identifier: Apache-2.0
// The archive's fixed structures as bytes: header, directory, block index, footer (FORMAT.md, "Archive"). Pure: bytes
// in, offsets out, no I/O. The shape section is in archive_shape.h.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "formats/archive.h"

namespace kvpack {

// PNG's damage check: a byte above 127, then CR LF, Ctrl-Z and LF, which text-mode transfers change.
inline constexpr std::array<uint8_t, 8> kHeaderMagic = {0x8B, 'K', 'V', 'P', '\r', '\n', 0x1A, '\n'};
inline constexpr std::array<uint8_t, 8> kFooterMagic = {0x8B, 'K', 'V', 'E', '\r', '\n', 0x1A, '\n'};

inline constexpr uint64_t kHeaderBytes = 128;
inline constexpr uint64_t kFooterBytes = 64;
inline constexpr uint64_t kSectionEntryBytes = 32;
inline constexpr uint64_t kBlockEntryBytes = 16;
inline constexpr uint64_t kTileEntryBytes = 16;

struct ArchiveHeader {
  uint16_t major = kArchiveMajor;
  uint16_t minor = kArchiveMinor;
  uint64_t required_features = 0;
  uint64_t optional_features = 0;
  std::array<std::byte, 16> archive_id{};  // xxh3-128 of the directory
  uint64_t file_bytes = 0;
  uint64_t directory_bytes = 0;
  uint64_t directory_checksum = 0;
  bool operator==(const ArchiveHeader&) const = default;
};

// What the directory says of a token set; the shape section must agree.
struct TokenSetCounts {
  uint32_t tokens = 0;
  uint32_t planes = 0;
};

// A directory as stored: all but the shape.
struct DirectoryTables {
  uint32_t levels = 0;
  uint32_t chunk_tokens = 0;
  std::vector<TokenSetCounts> token_sets;
  uint64_t values = 0;  // over all planes: tokens x kv_heads x head_dim
  std::vector<SectionEntry> sections;
  std::vector<ChunkShape> chunks;
  std::vector<BlockEntry> blocks;  // [level][chunk]
  uint64_t trailer_offset = 0;     // derived
};

std::vector<ChunkShape> chunks_of_counts(const std::vector<TokenSetCounts>& token_sets, uint32_t chunk_tokens);
// `limit` if a count exceeds version 1's limits, `corrupt` if one is zero that may not be.
Status validate_counts(uint32_t levels, uint32_t sections, uint32_t chunk_tokens,
                       const std::vector<TokenSetCounts>& token_sets);
// The size of a directory with these counts.
uint64_t directory_bytes_of(uint32_t levels, uint32_t sections, uint32_t chunk_tokens,
                            const std::vector<TokenSetCounts>& token_sets);

Bytes encode_header(const ArchiveHeader& header);
// `head` is the start of a file of `file_bytes` bytes, at least kHeaderBytes of it if there are as many.
Result<ArchiveHeader> decode_header(ByteSpan head, uint64_t file_bytes);

Bytes encode_directory(const DirectoryTables& tables);
// Checks the checksum, the id and every size against the header; fills the derived offsets.
Result<DirectoryTables> decode_directory(ByteSpan directory, const ArchiveHeader& header);
// Where the shape section ends according to a directory that is not checked yet: how much of the file opening needs.
// Never beyond the file.
uint64_t claimed_opening_bytes(const ArchiveHeader& header, ByteSpan head);

// [plane of the chunk]
Bytes encode_block_index(const std::vector<TileEntry>& tiles);
// Checks the index against its block's entry: checksum, bytes, distortion.
Result<std::vector<TileEntry>> decode_block_index(ByteSpan index, const BlockEntry& block);
// The distortion of a block: its tiles' added up in double, in order, then rounded to f32.
float block_distortion(const std::vector<TileEntry>& tiles);

Bytes encode_footer(const ArchiveHeader& header);
Status check_footer(ByteSpan footer, const ArchiveHeader& header);

}  // namespace kvpack
