// SPDX-License-Identifier: Apache-2.0
// Archives for tests: random ones, one that is small and fixed, and forged ones whose checksums are all right.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "formats/archive.h"
#include "formats/archive_layout.h"
#include "formats/archive_shape.h"
#include "formats/checksum.h"

namespace kvpack {

struct SampleArchive {
  ArchiveShape shape;
  uint32_t levels = 1;
  std::vector<std::vector<std::vector<Bytes>>> tiles;  // [level][chunk][plane]
  std::map<SectionKind, Bytes> sections;
  Bytes file;
};

inline Bytes random_bytes(std::mt19937_64& random, size_t count) {
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

inline void fill_and_write(SampleArchive& sample, std::mt19937_64& random, size_t tile_bytes) {
  ArchiveWriter writer(sample.shape, sample.levels);
  for (const auto& [kind, raw] : sample.sections) REQUIRE(writer.set_section(kind, raw).ok());
  const std::vector<ChunkShape> chunks = chunks_of(sample.shape);
  sample.tiles.assign(sample.levels, {});
  for (uint32_t level = 0; level < sample.levels; ++level) {
    for (uint32_t chunk = 0; chunk < chunks.size(); ++chunk) {
      std::vector<Bytes> tiles;
      for (uint32_t plane = 0; plane < chunks[chunk].planes; ++plane) {
        tiles.push_back(random_bytes(random, tile_bytes == 0 ? 0 : random() % (tile_bytes + 1)));
        const float distortion = static_cast<float>(random() % 1000) / 7;
        REQUIRE(writer.add_tile(chunk, plane, level, tiles.back(), distortion).ok());
      }
      sample.tiles[level].push_back(std::move(tiles));
    }
  }
  MemorySink sink;
  const auto status = writer.finish(sink);
  REQUIRE_MESSAGE(status.ok(), (status.ok() ? "" : status.error().message));
  sample.file = sink.take();
}

inline PlaneShape sample_plane(uint32_t token_set, uint32_t layer, Side side) {
  PlaneShape plane;
  plane.layer = layer;
  plane.side = side;
  plane.token_set = token_set;
  plane.kv_heads = 2;
  plane.head_dim = 64;
  return plane;
}

inline SampleArchive random_archive(uint64_t seed) {
  std::mt19937_64 random(seed);
  SampleArchive sample;
  sample.levels = 1 + random() % 3;
  sample.shape.chunk_tokens = 1 + random() % 40;
  Rope rope;
  rope.style = RopeStyle::kNeox;
  rope.base = 10000;
  for (int i = 0; i < 16; ++i) rope.inv_freq.push_back(std::pow(10000.0, -i / 16.0));
  sample.shape.ropes = {rope, Rope{}};
  const uint32_t token_sets = random() % 4;
  for (uint32_t set = 0; set < token_sets; ++set) {
    TokenSetShape tokens;
    tokens.stream = static_cast<uint32_t>(random() % 5);
    int32_t position = static_cast<int32_t>(random() % 1000) - 3;
    for (size_t count = 1 + random() % 200; count > 0; --count) {
      tokens.positions.push_back(position);
      position += static_cast<int32_t>(random() % 3);
    }
    sample.shape.token_sets.push_back(tokens);
    const uint32_t layers = random() % 5;
    for (uint32_t layer = 0; layer < layers; ++layer) {
      PlaneShape plane = sample_plane(set, layer * 3, Side::kKey);
      plane.kv_heads = 1 + random() % 8;
      plane.rope = static_cast<int32_t>(random() % 3) - 1;
      plane.dtype = random() % 2 == 0 ? DType::kF16 : DType::kQ8_0;
      plane.hadamard_block = random() % 2 == 0 ? 0 : 64;
      sample.shape.planes.push_back(plane);
      if (random() % 4 == 0) continue;  // K only
      plane.side = Side::kValue;
      plane.rope = -1;
      sample.shape.planes.push_back(plane);
    }
  }
  sample.sections[SectionKind::kIdentity] = Bytes(300, std::byte{'{'});
  if (random() % 2 == 0) sample.sections[SectionKind::kContainer] = random_bytes(random, 500);
  fill_and_write(sample, random, 50);
  return sample;
}

// Two layers, 5 tokens in chunks of 3, two levels. FORMAT.md prints it.
inline SampleArchive small_archive() {
  std::mt19937_64 random(1);
  SampleArchive sample;
  sample.levels = 2;
  sample.shape.chunk_tokens = 3;
  sample.shape.token_sets = {{0, {0, 1, 2, 3, 4}}};
  Rope rope;
  rope.style = RopeStyle::kNorm;
  rope.base = 1e4 / 3;  // no zeros, so that zstd cannot gain and its version does not matter
  rope.magnitude = 1.1;
  rope.inv_freq = {0.7};
  sample.shape.ropes = {rope};
  sample.shape.planes = {sample_plane(0, 0, Side::kKey), sample_plane(0, 0, Side::kValue)};
  sample.shape.planes[0].rope = 0;
  sample.sections[SectionKind::kIdentity] = Bytes{std::byte{'{'}, std::byte{'}'}};
  fill_and_write(sample, random, 8);
  return sample;
}

// An archive around any directory and any content, with every checksum and size of header and trailer as they must be.
inline Bytes sealed(const Bytes& directory, ByteSpan content) {
  ArchiveHeader header;
  header.archive_id = xxh3_128(directory);
  header.directory_bytes = directory.size();
  header.directory_checksum = xxh3_64(directory);
  header.file_bytes = kHeaderBytes + 2 * directory.size() + content.size() + kFooterBytes;
  ByteWriter writer;
  writer.write_bytes(encode_header(header));
  writer.write_bytes(directory);
  writer.write_bytes(content);
  writer.write_bytes(directory);
  writer.write_bytes(encode_footer(header));
  return writer.take();
}

// The parts of a well-formed archive, to forge others from.
struct ArchiveParts {
  ArchiveHeader header;
  DirectoryTables tables;
  Bytes directory;
  Bytes content;  // sections and blocks
  Bytes raw_shape;
};

inline ArchiveParts parts_of(const Bytes& file) {
  ArchiveParts parts;
  parts.header = decode_header(file, file.size()).value();
  const auto at = file.begin() + kHeaderBytes;
  parts.directory = Bytes(at, at + static_cast<long>(parts.header.directory_bytes));
  parts.tables = decode_directory(parts.directory, parts.header).value();
  parts.content = Bytes(at + static_cast<long>(parts.header.directory_bytes),
                        file.begin() + static_cast<long>(parts.tables.trailer_offset));
  MemorySource source(file);
  parts.raw_shape = ArchiveReader::open(source).value().section(SectionKind::kShape).value();
  return parts;
}

// The same archive with another shape section, stored raw.
inline Bytes with_shape(const ArchiveParts& parts, const Bytes& raw_shape) {
  DirectoryTables tables = parts.tables;
  SectionEntry& entry = tables.sections.front();
  Bytes content = raw_shape;
  content.insert(content.end(), parts.content.begin() + static_cast<long>(entry.stored_bytes), parts.content.end());
  entry.stored_bytes = entry.raw_bytes = raw_shape.size();
  entry.checksum = xxh3_64(raw_shape);
  return sealed(encode_directory(tables), content);
}

// The first error of opening and verifying; nullopt if there is none.
inline std::optional<Error> first_error(ByteSpan file) {
  MemorySource source(file, "test.kvp");
  const Result<ArchiveReader> reader = ArchiveReader::open(source);
  if (!reader.ok()) return reader.error();
  const Status status = reader->verify();
  return status.ok() ? std::nullopt : std::optional<Error>(status.error());
}

}  // namespace kvpack
