// SPDX-License-Identifier: Apache-2.0
// Blocks of archives on the local disk, for contexts that are fetched again: one file per block,
// FOLDER/blocks/ARCHIVE_ID/LEVEL-CHUNK-INDEX_CHECKSUM. Files appear whole or not at all; what is read is checked
// against the directory. The least recently used go when the folder grows beyond its size. Several processes may share
// the folder: cleaning up is done by one at a time, under a lock.
#pragma once

#include <optional>
#include <string>

#include "formats/archive.h"

namespace kvpack {

class ChunkCache {
 public:
  ChunkCache(std::string folder, uint64_t limit_bytes) : folder_(std::move(folder)), limit_bytes_(limit_bytes) {}

  // The block, checked; nullopt if it is not there. A damaged one is removed.
  std::optional<Bytes> load(const std::string& archive_id, const Directory& directory, uint32_t level, uint32_t chunk);
  // Errors: io. The caller can do without.
  Status store(const std::string& archive_id, const Directory& directory, uint32_t level, uint32_t chunk,
               ByteSpan block);
  // Brings the folder back under its limit, if another process is not at it already.
  Status clean_up();

 private:
  std::string path_of(const std::string& archive_id, const Directory& directory, uint32_t level, uint32_t chunk) const;

  const std::string folder_;
  const uint64_t limit_bytes_;
};

}  // namespace kvpack
