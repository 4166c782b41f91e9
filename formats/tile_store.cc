// SPDX-License-Identifier: Apache-2.0
#include "formats/tile_store.h"

#include "formats/open_file.h"

namespace kvpack {

Result<uint64_t> TileStore::add(Bytes tile) {
  if (!keeps_bytes() || tile.empty()) return 0;
  uint64_t offset = 0;
  {
    const std::lock_guard lock(mutex_);
    if (keeping_ == TileKeeping::kMemory || kept_bytes_ + tile.size() <= kMemoryBytes) {
      kept_bytes_ += tile.size();
      tile.shrink_to_fit();
      kept_.push_back(std::move(tile));
      return kept_.size() - 1;
    }
    if (file_.get() < 0) {
      KVPACK_ASSIGN_OR_RETURN(file_, open_unlinked_file(folder_.empty() ? temporary_folder() : folder_));
    }
    offset = file_bytes_;
    file_bytes_ += tile.size();
  }
  KVPACK_RETURN_IF_ERROR(write_at(file_.get(), "temporary file of tiles", offset, tile));
  return kInFile + offset;
}

Result<ByteSpan> TileStore::load(uint64_t kept_at, uint32_t bytes, Bytes& buffer) const {
  if (bytes == 0) return ByteSpan();
  if (kept_at < kInFile) return ByteSpan(kept_[kept_at]);
  buffer.resize(bytes);
  KVPACK_RETURN_IF_ERROR(read_at(file_.get(), "temporary file of tiles", kept_at - kInFile, buffer));
  return ByteSpan(buffer);
}

}  // namespace kvpack
