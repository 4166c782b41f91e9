// SPDX-License-Identifier: Apache-2.0
// A real archive taken apart, to be put together again with other content under right checksums.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "codec/archive_codec.h"
#include "formats/archive.h"
#include "tests/must.h"

namespace kvpack::test {

struct OpenedArchive {
  ArchiveShape shape;
  uint32_t levels = 0;
  std::map<SectionKind, Bytes> sections;               // all but the shape
  std::vector<std::vector<std::vector<Bytes>>> tiles;  // [level][chunk][plane of the chunk]

  explicit OpenedArchive(const Bytes& file) {
    MemorySource source(file);
    const ArchiveReader reader = must(ArchiveReader::open(source));
    shape = reader.shape();
    levels = reader.directory().levels;
    for (const SectionEntry& section : reader.directory().sections) {
      if (section.kind != SectionKind::kShape) sections[section.kind] = must(reader.section(section.kind));
    }
    for (uint32_t level = 0; level < levels; ++level) {
      tiles.emplace_back();
      for (uint32_t chunk = 0; chunk < reader.directory().chunks.size(); ++chunk) {
        tiles.back().push_back(must(reader.block_tiles(level, chunk)));
      }
    }
  }

  // Unset if the writer itself refuses the shape.
  std::optional<Bytes> write() const {
    ArchiveWriter writer(shape, levels);
    for (const auto& [kind, raw] : sections) {
      if (!writer.set_section(kind, raw).ok()) return std::nullopt;
    }
    for (uint32_t level = 0; level < levels; ++level) {
      for (uint32_t chunk = 0; chunk < tiles[level].size(); ++chunk) {
        for (uint32_t plane = 0; plane < tiles[level][chunk].size(); ++plane) {
          if (!writer.add_tile(chunk, plane, level, tiles[level][chunk][plane], 1).ok()) return std::nullopt;
        }
      }
    }
    MemorySink sink;
    if (!writer.finish(sink).ok()) return std::nullopt;
    return sink.take();
  }
};

// What decoding `file` wholly gives: the file that was packed, or the first error of opening, restoring and decoding.
inline Result<Bytes> decode_all(ByteSpan file) {
  MemorySource source(file, "test.kvp");
  KVPACK_ASSIGN_OR_RETURN(const ArchiveReader reader, ArchiveReader::open(source));
  DecodeOptions options;
  options.threads = 1;
  KVPACK_ASSIGN_OR_RETURN(Bytes restored, restore_file(reader, options));
  KVPACK_RETURN_IF_ERROR(decode_tensor(reader, options, nullptr));
  return restored;
}

}  // namespace kvpack::test
