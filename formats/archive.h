// SPDX-License-Identifier: Apache-2.0
// The .kvp archive: what it holds and how to read and write it. FORMAT.md has every field.
//
//   header 128 B | directory | sections | level 0: chunk blocks | level 1: chunk blocks | ... | trailer
//
// A chunk is up to `chunk_tokens` consecutive tokens of one token set; a tile is chunk x plane, at one level. A chunk
// block holds one chunk's tiles of one level, behind a small index of them. Everything is contiguous, so offsets follow
// from sizes: overlaps and holes cannot be expressed. Base blocks come first, so every prefix that ends with a level
// is a usable archive.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/byte_io.h"
#include "formats/kv_tensor.h"
#include "formats/model_facts.h"

namespace kvpack {

inline constexpr uint16_t kArchiveMajor = 1;
inline constexpr uint16_t kArchiveMinor = 2;
inline constexpr uint32_t kDefaultChunkTokens = 256;

// Required feature bits: what a reader must know to read an archive or a frame.
inline constexpr uint64_t kRepeatedRowsFeature = 1;  // lossless tiles name rows that repeat
inline constexpr uint64_t kKnownRequiredFeatures = kRepeatedRowsFeature;

// Limits of version 1; anything above is ErrorKind::kLimit.
inline constexpr uint32_t kMaxLevels = 8;
inline constexpr uint32_t kMaxChunkTokens = 4096;
inline constexpr uint32_t kMaxTokenSets = 256;
inline constexpr uint32_t kMaxTokensPerSet = 1u << 24;
inline constexpr uint64_t kMaxTokens = 1ull << 26;  // over all token sets
inline constexpr uint32_t kMaxPlanes = 1u << 14;
inline constexpr uint64_t kMaxDirectoryBytes = 1ull << 28;
inline constexpr uint64_t kMaxSectionBytes = 1ull << 32;  // before compression
inline constexpr uint32_t kMaxTileBytes = 1u << 30;
inline constexpr uint32_t kMaxSections = 64;
inline constexpr uint32_t kMaxRopes = 256;

// What `open` reads first. An archive whose directory and shape end within it opens with one read.
inline constexpr uint64_t kOpeningBytes = 64 * 1024;

enum class SectionKind : uint32_t {
  kShape = 1,       // ArchiveShape, binary
  kIdentity = 2,    // JSON: model, source file, codec, creator
  kTokens = 3,      // i32 token ids
  kText = 4,        // the prompt, UTF-8
  kContainer = 5,   // KvFile::container
  kParameters = 6,  // codec's plane parameters, one blob per plane
  kProfile = 7,     // an embedded .kvprofile
};

struct PlaneShape {
  uint32_t layer = 0;
  Side side = Side::kKey;
  uint32_t token_set = 0;
  int32_t rope = -1;  // index into ArchiveShape::ropes
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  DType dtype = DType::kF16;    // as stored in the source file
  uint32_t hadamard_block = 0;  // of the source file, see BasicKvView

  uint32_t channels() const { return kv_heads * head_dim; }
  bool operator==(const PlaneShape&) const = default;
};

struct TokenSetShape {
  uint32_t stream = 0;
  std::vector<int32_t> positions;  // ascending
  bool operator==(const TokenSetShape&) const = default;
};

struct ArchiveShape {
  uint32_t chunk_tokens = kDefaultChunkTokens;
  std::vector<TokenSetShape> token_sets;
  std::vector<PlaneShape> planes;  // grouped by token set
  std::vector<Rope> ropes;
  bool operator==(const ArchiveShape&) const = default;
};

// One chunk, in directory order: token set by token set, first token ascending.
struct ChunkShape {
  uint32_t token_set = 0;
  uint32_t first_token = 0;  // index into the token set
  uint32_t tokens = 0;
  uint32_t first_plane = 0;  // the token set's planes: [first_plane, first_plane + planes)
  uint32_t planes = 0;
};
std::vector<ChunkShape> chunks_of(const ArchiveShape& shape);

struct TileEntry {
  uint32_t bytes = 0;
  float distortion = 0;   // squared error left when decoding up to this level, in units of the codec's metric
  uint64_t checksum = 0;  // xxh3-64 of the tile's bytes
};

struct BlockEntry {
  uint64_t offset = 0;   // derived
  uint32_t bytes = 0;    // index and tiles
  float distortion = 0;  // sum over its tiles
  uint64_t index_checksum = 0;
};

struct SectionEntry {
  SectionKind kind = SectionKind::kShape;
  uint64_t offset = 0;        // derived
  uint64_t stored_bytes = 0;  // in the file (zstd unless equal to raw_bytes)
  uint64_t raw_bytes = 0;
  uint64_t checksum = 0;  // xxh3-64 of the stored bytes
};

struct Directory {
  uint32_t levels = 0;
  ArchiveShape shape;  // filled from the shape section on open
  std::vector<SectionEntry> sections;
  std::vector<ChunkShape> chunks;
  std::vector<BlockEntry> blocks;  // [level][chunk]
  const BlockEntry& block(uint32_t level, uint32_t chunk) const { return blocks[level * chunks.size() + chunk]; }
  uint64_t level_bytes(uint32_t level) const;
};

std::string section_name(SectionKind kind);  // "identity", "section 9", ...

// Where the writer keeps tiles until the archive is put together.
enum class TileKeeping : uint8_t {
  kMemory,  // as they are
  kSpill,   // what exceeds 64 MiB in an unlinked temporary file
  kSizes,   // not at all: only the archive's size is wanted
};

// What finish() wrote.
struct ArchiveSizes {
  uint64_t bytes = 0;                 // of the whole archive
  std::vector<uint64_t> level_bytes;  // [level] of its blocks, their indices included
  std::vector<uint64_t> level_ends;   // [level] the archive up to and including it, without the trailer
};

class TileStore;

class ArchiveWriter {
 public:
  // `spill_folder`: for kSpill; empty: $TMPDIR, else /tmp.
  ArchiveWriter(ArchiveShape shape, uint32_t levels, TileKeeping keeping = TileKeeping::kMemory,
                const std::string& spill_folder = "");
  ~ArchiveWriter();

  // Stored in ascending order of kind; compressed with zstd where that is smaller; an empty one is omitted. The shape
  // is not set this way.
  Status set_section(SectionKind kind, Bytes raw);
  // Every (chunk, plane of the chunk, level) exactly once, in any order, from any thread; `plane` counts from 0 within
  // the chunk. Errors: invalid_argument, limit; io of the temporary file.
  Status add_tile(uint32_t chunk, uint32_t plane, uint32_t level, Bytes tile, float distortion);
  // Bits that readers of what add_tile() was given need. From any thread.
  void require_features(uint64_t features) { required_features_ |= features; }
  // Writes the archive front to back without seeking (a pipe will do). Error if tiles are missing. Of kSizes nothing is
  // written; the sizes are those of any other way of keeping.
  Result<ArchiveSizes> finish(ByteSink& sink);

 private:
  struct Tile {
    TileEntry entry;
    uint64_t kept_at = 0;  // in the store
    bool present = false;
  };
  Status write_blocks(const std::vector<Bytes>& indices, ByteSink& sink);
  ArchiveShape shape_;
  uint32_t levels_;
  Status shape_status_;  // of the constructor's arguments; every call returns it
  std::vector<ChunkShape> chunks_;
  std::vector<std::vector<Tile>> tiles_;  // [level * chunks + chunk][plane]
  std::unique_ptr<TileStore> store_;
  std::map<SectionKind, Bytes> sections_;  // not compressed
  std::atomic<uint64_t> required_features_ = 0;
};

// One block as read; its tiles are not checked yet.
struct ArchiveBlock {
  uint32_t level = 0;
  uint32_t chunk = 0;
  Bytes bytes;
  std::vector<TileEntry> index;   // [plane of the chunk]
  std::vector<uint64_t> offsets;  // [plane of the chunk] into bytes
  // One tile, verified against its checksum (corrupt).
  Result<ByteSpan> tile(uint32_t plane) const;
};

class ArchiveReader {
 public:
  // Reads header, directory and shape (one read of 64 KiB for archives of up to 128K tokens); checks everything that
  // can be checked without reading tiles, the trailer's position included (from the file size, not by reading it).
  // `source` must outlive the reader. Errors: not_kvpack, unsupported (unknown version or required feature), corrupt,
  // truncated, limit, and the source's own.
  static Result<ArchiveReader> open(ByteSource& source);

  const Directory& directory() const { return directory_; }
  const ArchiveShape& shape() const { return directory_.shape; }
  uint16_t minor_version() const { return minor_version_; }
  const std::string& archive_id() const { return archive_id_; }  // 32 hex digits, from the content
  uint64_t file_bytes() const { return file_bytes_; }

  bool has_section(SectionKind kind) const;
  // Verified and decompressed.
  Result<Bytes> section(SectionKind kind) const;
  // The index of one block: [plane of the chunk].
  Result<std::vector<TileEntry>> tile_index(uint32_t level, uint32_t chunk) const;
  // One tile's bytes, verified against its checksum.
  Result<Bytes> tile(uint32_t level, uint32_t chunk, uint32_t plane) const;
  // One block in one read.
  Result<ArchiveBlock> block(uint32_t level, uint32_t chunk) const;
  // All tiles of one block in one read, verified.
  Result<std::vector<Bytes>> block_tiles(uint32_t level, uint32_t chunk) const;
  // Reads and checks every byte of the file, trailer included. Also `corrupt` if the file changed since open().
  Status verify() const;

 private:
  // From the kept head where it has them, else from the source.
  Result<Bytes> fetch(uint64_t offset, uint64_t count) const;
  Status check_block_address(uint32_t level, uint32_t chunk) const;
  Status verify_trailer() const;

  ByteSource* source_ = nullptr;
  Directory directory_;
  uint16_t minor_version_ = 0;
  std::string archive_id_;
  uint64_t file_bytes_ = 0;
  Bytes head_;  // the first bytes of the file, kept from the opening read
};

}  // namespace kvpack
