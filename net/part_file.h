// SPDX-License-Identifier: Apache-2.0
// What an interrupted fetch leaves behind, FILE.part: blocks in the order of arrival, so that nothing is lost but a
// torn end. Integers are little-endian.
//
//   8 bytes magic | 32 bytes archive id | records: u32 level, u32 chunk, u32 bytes, the block's bytes
//
// Nothing in it is believed: a block counts only if it is the one that the archive's directory names.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "formats/archive.h"
#include "formats/file_descriptor.h"

namespace kvpack {

class PartFile {
 public:
  // Opens or begins `path`. What an earlier fetch of the same archive left is handed to `found`, checked; another
  // archive's is thrown away. Errors: io (also when another process has it open).
  static Result<std::unique_ptr<PartFile>> open(
      const std::string& path, const std::string& archive_id, const Directory& directory,
      const std::function<void(uint32_t level, uint32_t chunk, Bytes)>& found);

  Status append(uint32_t level, uint32_t chunk, ByteSpan block);
  // The fetch is complete.
  void remove();
  const std::string& path() const { return path_; }

 private:
  PartFile() = default;
  Status write_all(ByteSpan bytes);

  std::string path_;
  FileDescriptor file_;
};

}  // namespace kvpack
