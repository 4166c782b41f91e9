// SPDX-License-Identifier: Apache-2.0
// Tiles between the encoder, which makes them in any order, and the archive, which holds them in its own: an archive
// of several levels cannot be written as it is made, and a long context's tiles are more than memory should hold.
#pragma once

#include <deque>
#include <mutex>
#include <string>

#include "formats/archive.h"
#include "formats/file_descriptor.h"

namespace kvpack {

class TileStore {
 public:
  // Kept in memory before a temporary file is made.
  static constexpr uint64_t kMemoryBytes = 64ull << 20;

  TileStore(TileKeeping keeping, std::string folder) : keeping_(keeping), folder_(std::move(folder)) {}
  bool keeps_bytes() const { return keeping_ != TileKeeping::kSizes; }

  // From any thread. Where it is kept, for load(). Errors: io.
  Result<uint64_t> add(Bytes tile);
  // The tile of so many bytes that add() kept there, as a view into the store or into `buffer`.
  Result<ByteSpan> load(uint64_t kept_at, uint32_t bytes, Bytes& buffer) const;

 private:
  // kept_at: an index into kept_, or kInFile + the offset in the file.
  static constexpr uint64_t kInFile = 1ull << 63;

  const TileKeeping keeping_;
  const std::string folder_;
  std::mutex mutex_;
  std::deque<Bytes> kept_;
  uint64_t kept_bytes_ = 0;
  FileDescriptor file_;
  uint64_t file_bytes_ = 0;
};

}  // namespace kvpack
