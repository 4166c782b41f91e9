// SPDX-License-Identifier: Apache-2.0
#include "net/block_check.h"

#include <fmt/format.h>

#include "formats/archive_layout.h"
#include "formats/checksum.h"

namespace kvpack {

Status check_block(const Directory& directory, uint32_t level, uint32_t chunk, ByteSpan block) {
  const BlockEntry& entry = directory.block(level, chunk);
  const std::string where = fmt::format("level {} chunk {}", level, chunk);
  if (block.size() != entry.bytes) {
    return corrupt(fmt::format("{}: {} bytes, the directory says {}", where, block.size(), entry.bytes));
  }
  const uint64_t index_bytes = directory.chunks[chunk].planes * kTileEntryBytes;
  const auto index = decode_block_index(block.first(index_bytes), entry);
  if (!index.ok()) return index.error().within(where);
  uint64_t offset = index_bytes;
  for (size_t plane = 0; plane < index->size(); ++plane) {
    const TileEntry& tile = (*index)[plane];
    const uint64_t checksum = xxh3_64(block.subspan(offset, tile.bytes));
    if (checksum != tile.checksum) {
      return corrupt(
          fmt::format("{} plane {}: tile checksum {:016x}, index says {:016x}", where, plane, checksum, tile.checksum));
    }
    offset += tile.bytes;
  }
  return {};
}

}  // namespace kvpack
