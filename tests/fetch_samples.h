// SPDX-License-Identifier: Apache-2.0
// Archives for tests of the fetcher, and a fetch of one in a few lines.
#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <map>
#include <string>

#include "net/fetcher.h"
#include "tests/archive_samples.h"
#include "tests/range_reads.h"

namespace kvpack {

// `chunks` chunks of 8 tokens, three levels, random tiles of up to `tile_bytes` bytes, `section_bytes` of a container
// that no compression shortens.
inline SampleArchive fetch_sample(uint32_t chunks, size_t tile_bytes, size_t section_bytes = 100) {
  std::mt19937_64 random(chunks);
  SampleArchive sample;
  sample.levels = 3;
  sample.shape.chunk_tokens = 8;
  TokenSetShape tokens;
  for (uint32_t i = 0; i < chunks * 8; ++i) tokens.positions.push_back(static_cast<int32_t>(i));
  sample.shape.token_sets = {tokens};
  sample.shape.planes = {sample_plane(0, 0, Side::kKey), sample_plane(0, 0, Side::kValue)};
  sample.sections[SectionKind::kIdentity] = Bytes{std::byte{'{'}, std::byte{'}'}};
  sample.sections[SectionKind::kContainer] = random_bytes(random, section_bytes);
  // Each level leaves a ninth of the distortion, as real ones do.
  ArchiveWriter writer(sample.shape, sample.levels);
  for (const auto& [kind, raw] : sample.sections) REQUIRE(writer.set_section(kind, raw).ok());
  sample.tiles.resize(3);
  for (uint32_t level = 0; level < 3; ++level) {
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      std::vector<Bytes>& tiles = sample.tiles[level].emplace_back();
      for (uint32_t plane = 0; plane < 2; ++plane) {
        tiles.push_back(random_bytes(random, tile_bytes / 2 + random() % (tile_bytes / 2 + 1)));
        const float distortion = static_cast<float>(81 + random() % 9) / (level == 0 ? 1.f : level == 1 ? 9.f : 81.f);
        REQUIRE(writer.add_tile(chunk, plane, level, tiles.back(), distortion).ok());
      }
    }
  }
  MemorySink sink;
  REQUIRE(writer.finish(sink).ok());
  sample.file = sink.take();
  return sample;
}

struct TestFetch {
  Result<FetchReport> report = Error{};
  std::map<std::pair<uint32_t, uint32_t>, bool> sound;  // [level, chunk] delivered as it should be
  uint64_t requests = 0;
  bool opened = false;
  uint32_t resumed_blocks = 0;
};

// Fetches `location`; every chunk that is offered is compared with `sample`. `part_path` may be empty.
inline TestFetch test_fetch(const std::string& location, const SampleArchive& sample, FetchOptions options,
                            const std::string& part_path = "") {
  TestFetch result;
  options.start = NetClock::now();
  auto source = open_range_source(location, quick_options());
  if (!source.ok()) {
    result.report = source.error();
    return result;
  }
  FetchedArchive archive((*source)->size(), (*source)->name());
  archive.add(0, Bytes((*source)->head().begin(), (*source)->head().end()));
  RangeByteSource remote(**source);
  archive.set_fallback(&remote);
  auto reader = ArchiveReader::open(archive);
  archive.set_fallback(nullptr);
  if (!reader.ok()) {
    result.report = reader.error();
    return result;
  }
  const Directory& directory = reader->directory();
  std::vector<std::vector<bool>> held(directory.levels, std::vector<bool>(directory.chunks.size()));
  std::unique_ptr<PartFile> part;
  if (!part_path.empty()) {
    auto opened =
        PartFile::open(part_path, reader->archive_id(), directory, [&](uint32_t level, uint32_t chunk, Bytes b) {
          archive.add(directory.block(level, chunk).offset, std::move(b));
          held[level][chunk] = true;
          ++result.resumed_blocks;
        });
    REQUIRE(opened.ok());
    part = std::move(*opened);
    options.part = part.get();
  }
  options.on_open = [&] {
    result.opened = true;
    CHECK(reader->section(SectionKind::kContainer).value() == sample.sections.at(SectionKind::kContainer));
  };
  options.on_chunk = [&](uint32_t chunk, uint32_t levels) {
    for (uint32_t level = 0; level < levels; ++level) {
      const auto tiles = reader->block_tiles(level, chunk);
      result.sound[{level, chunk}] = tiles.ok() && *tiles == sample.tiles[level][chunk];
    }
  };
  result.report = fetch_archive(**source, *reader, archive, held, options);
  result.requests = (*source)->counters().requests;
  return result;
}

inline bool all_sound(const TestFetch& fetch, size_t blocks) {
  return fetch.sound.size() == blocks &&
         std::all_of(fetch.sound.begin(), fetch.sound.end(), [](const auto& entry) { return entry.second; });
}

inline std::filesystem::path fresh_folder(const std::string& name) {
  const auto folder = std::filesystem::temp_directory_path() / ("kvpack-test-" + name + std::to_string(::getpid()));
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

}  // namespace kvpack
