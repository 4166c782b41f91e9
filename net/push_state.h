// SPDX-License-Identifier: Apache-2.0
// What is known of an unfinished multipart upload, kept as JSON so that it can go on.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "formats/result.h"

namespace kvpack {

struct PushState {
  std::string url;
  std::string archive_id;
  uint64_t file_bytes = 0;
  uint64_t part_bytes = 0;
  std::string upload_id;
  std::map<uint32_t, std::string> part_etags;  // by part number, from 1

  // Whether what was sent of the other is part of this one.
  bool same_upload(const PushState& other) const {
    return url == other.url && archive_id == other.archive_id && file_bytes == other.file_bytes &&
           part_bytes == other.part_bytes;
  }
};

// Makes the folder. Errors: io.
Result<std::string> push_state_path(const std::string& folder, const std::string& url);
// nullopt if there is none, or none that makes sense.
std::optional<PushState> read_push_state(const std::string& path);
Status write_push_state(const std::string& path, const PushState& state);

}  // namespace kvpack
