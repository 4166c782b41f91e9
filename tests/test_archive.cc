// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "tests/archive_samples.h"

using namespace kvpack;

namespace {

// Counts reads, and refuses those that go beyond `available`: what a partial download has.
class CountingSource : public ByteSource {
 public:
  explicit CountingSource(ByteSpan bytes) : bytes_(bytes), available(bytes.size()) {}
  uint64_t size() const override { return bytes_.size(); }
  std::string name() const override { return "counting"; }
  Result<Bytes> read(uint64_t offset, uint64_t count) override {
    ++reads;
    read_bytes += count;
    if (offset + count > available) return truncated("beyond the prefix");
    return Bytes(bytes_.begin() + static_cast<long>(offset), bytes_.begin() + static_cast<long>(offset + count));
  }

 private:
  ByteSpan bytes_;

 public:
  uint64_t available;
  int reads = 0;
  uint64_t read_bytes = 0;
};

void check_contents(const SampleArchive& sample) {
  MemorySource source(sample.file);
  const Result<ArchiveReader> reader = ArchiveReader::open(source);
  REQUIRE_MESSAGE(reader.ok(), (reader.ok() ? "" : reader.error().message));
  CHECK(reader->shape() == sample.shape);
  CHECK(reader->directory().levels == sample.levels);
  for (const auto& [kind, raw] : sample.sections) CHECK(reader->section(kind).value() == raw);
  CHECK_FALSE(reader->has_section(SectionKind::kProfile));
  for (uint32_t level = 0; level < sample.levels; ++level) {
    for (uint32_t chunk = 0; chunk < sample.tiles[level].size(); ++chunk) {
      const std::vector<Bytes>& tiles = sample.tiles[level][chunk];
      CHECK(reader->block_tiles(level, chunk).value() == tiles);
      for (uint32_t plane = 0; plane < tiles.size(); ++plane) {
        CHECK(reader->tile(level, chunk, plane).value() == tiles[plane]);
      }
    }
  }
  CHECK(reader->verify().ok());
}

// `tokens` tokens of a 32-layer model with empty tiles.
SampleArchive long_archive(uint32_t tokens, uint32_t levels, uint32_t chunk_tokens) {
  std::mt19937_64 random(1);
  SampleArchive sample;
  sample.levels = levels;
  sample.shape.chunk_tokens = chunk_tokens;
  sample.shape.token_sets.resize(1);
  for (uint32_t i = 0; i < tokens; ++i) sample.shape.token_sets[0].positions.push_back(static_cast<int32_t>(i));
  for (uint32_t layer = 0; layer < 32; ++layer) {
    sample.shape.planes.push_back(sample_plane(0, layer, Side::kKey));
    sample.shape.planes.push_back(sample_plane(0, layer, Side::kValue));
  }
  fill_and_write(sample, random, 0);
  return sample;
}

}  // namespace

TEST_CASE("archive: random shapes come back") {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    check_contents(random_archive(seed));
  }
}

TEST_CASE("archive: no token sets and no planes") {
  std::mt19937_64 random(1);
  SampleArchive sample;
  sample.sections[SectionKind::kContainer] = random_bytes(random, 70000);
  fill_and_write(sample, random, 0);
  check_contents(sample);
}

TEST_CASE("archive: equal content gives equal bytes and ids, other content another id") {
  const SampleArchive one = random_archive(7);
  CHECK(one.file == random_archive(7).file);
  SampleArchive other = random_archive(7);
  other.sections[SectionKind::kIdentity][0] = std::byte{'}'};
  std::mt19937_64 random(7);
  fill_and_write(other, random, 50);
  MemorySource source(one.file);
  MemorySource other_source(other.file);
  CHECK(ArchiveReader::open(source)->archive_id().size() == 32);
  CHECK(ArchiveReader::open(source)->archive_id() != ArchiveReader::open(other_source)->archive_id());
}

TEST_CASE("archive: 128K tokens in 3 levels open with one read of 64 KiB") {
  const SampleArchive sample = long_archive(128 * 1024, 3, 256);
  CountingSource source(sample.file);
  const Result<ArchiveReader> reader = ArchiveReader::open(source);
  REQUIRE(reader.ok());
  CHECK(source.reads == 1);
  CHECK(source.read_bytes == kOpeningBytes);
  CHECK(reader->directory().sections[0].offset + reader->directory().sections[0].stored_bytes <= kOpeningBytes);
  CHECK(reader->shape() == sample.shape);
  REQUIRE(reader->tile_index(2, 511).ok());
  CHECK(source.reads == 2);
}

TEST_CASE("archive: opening and one tile take as many reads and bytes from a long archive as from a short one") {
  for (const uint32_t tokens : {8u * 1024, 128u * 1024}) {
    std::mt19937_64 random(11);
    SampleArchive sample = long_archive(tokens, 3, 256);
    fill_and_write(sample, random, 4000);
    REQUIRE(sample.file.size() > 2 * kOpeningBytes);
    CountingSource source(sample.file);
    const auto reader = ArchiveReader::open(source);
    REQUIRE(reader.ok());
    const uint32_t last = static_cast<uint32_t>(reader->directory().chunks.size()) - 1;
    const auto tile = reader->tile(1, last, 1);
    REQUIRE(tile.ok());
    CHECK(*tile == sample.tiles[1][last][1]);
    CHECK(source.reads == 3);
    CHECK(source.read_bytes ==
          kOpeningBytes + reader->directory().chunks[last].planes * kTileEntryBytes + tile->size());
  }
}

TEST_CASE("archive: a small file is read once and never again") {
  const SampleArchive sample = small_archive();
  CountingSource source(sample.file);
  const Result<ArchiveReader> reader = ArchiveReader::open(source);
  REQUIRE(reader.ok());
  REQUIRE(reader->tile(1, 1, 1).ok());
  REQUIRE(reader->section(SectionKind::kIdentity).ok());
  CHECK(source.reads == 1);
  CHECK(source.read_bytes == sample.file.size());
}

TEST_CASE("archive: a directory above 64 KiB takes a second read, of no more than it needs") {
  const SampleArchive sample = long_archive(40000, 4, 16);
  CountingSource source(sample.file);
  const Result<ArchiveReader> reader = ArchiveReader::open(source);
  REQUIRE(reader.ok());
  CHECK(source.reads == 2);
  const SectionEntry& shape = reader->directory().sections[0];
  CHECK(source.read_bytes == shape.offset + shape.stored_bytes);
  CHECK(reader->shape() == sample.shape);
  CHECK(reader->verify().ok());
}

TEST_CASE("archive: every prefix that ends with a level serves that level") {
  std::mt19937_64 random(3);
  SampleArchive sample = long_archive(2000, 3, 64);
  fill_and_write(sample, random, 400);
  CountingSource source(sample.file);
  const Result<ArchiveReader> reader = ArchiveReader::open(source);
  REQUIRE(reader.ok());
  const Directory& directory = reader->directory();
  const auto chunks = static_cast<uint32_t>(directory.chunks.size());
  for (uint32_t level = 0; level < sample.levels; ++level) {
    const BlockEntry& last = directory.block(level, chunks - 1);
    source.available = last.offset + last.bytes;
    CHECK(directory.block(level, 0).offset + directory.level_bytes(level) == source.available);
    for (uint32_t lower = 0; lower <= level; ++lower) {
      for (uint32_t chunk = 0; chunk < chunks; ++chunk) CHECK(reader->block_tiles(lower, chunk).ok());
    }
    if (level + 1 < sample.levels) CHECK_FALSE(reader->block_tiles(level + 1, chunks - 1).ok());
  }
}

TEST_CASE("archive writer: what makes no sense is refused before anything is written") {
  const SampleArchive sample = small_archive();
  ArchiveWriter writer(sample.shape, 1);
  MemorySink sink;
  CHECK(writer.finish(sink).error().kind == ErrorKind::kInvalidArgument);  // no tiles
  CHECK(sink.bytes().empty());
  CHECK(writer.set_section(SectionKind::kShape, Bytes(1)).error().kind == ErrorKind::kInvalidArgument);
  CHECK(writer.set_section(SectionKind{8}, Bytes(1)).error().kind == ErrorKind::kInvalidArgument);
  CHECK(writer.add_tile(2, 0, 0, {}, 0).error().kind == ErrorKind::kInvalidArgument);
  CHECK(writer.add_tile(0, 2, 0, {}, 0).error().kind == ErrorKind::kInvalidArgument);
  CHECK(writer.add_tile(0, 0, 1, {}, 0).error().kind == ErrorKind::kInvalidArgument);
  CHECK(writer.add_tile(0, 0, 0, {}, -1).error().kind == ErrorKind::kInvalidArgument);
  CHECK(writer.add_tile(0, 0, 0, {}, std::nanf("")).error().kind == ErrorKind::kInvalidArgument);
  CHECK(writer.add_tile(0, 0, 0, {}, 0).ok());
  CHECK(writer.add_tile(0, 0, 0, {}, 0).error().kind == ErrorKind::kInvalidArgument);  // twice
  ArchiveShape empty_set = sample.shape;
  empty_set.token_sets[0].positions.clear();
  CHECK(ArchiveWriter(empty_set, 1).finish(sink).error().kind == ErrorKind::kInvalidArgument);
  CHECK(ArchiveWriter(sample.shape, 0).finish(sink).error().kind == ErrorKind::kInvalidArgument);
  CHECK(ArchiveWriter(sample.shape, 9).finish(sink).error().kind == ErrorKind::kLimit);
}

TEST_CASE("archive: the example in FORMAT.md is this archive") {
  std::ifstream format(KVPACK_TESTS_DIR "/../formats/FORMAT.md");
  Bytes documented;
  for (std::string line; std::getline(format, line);) {
    // "    0010  01 00 00 00 ...  meaning"
    if (line.size() < 12 || line.substr(0, 4) != "    " || line.substr(8, 2) != "  ") continue;
    if (line.find_first_not_of("0123456789abcdef", 4) != 8) continue;
    std::istringstream digits(line.substr(10, line.find("  ", 10) - 10));
    for (std::string byte; digits >> byte;) documented.push_back(static_cast<std::byte>(std::stoi(byte, nullptr, 16)));
  }
  CHECK(documented == small_archive().file);
}
