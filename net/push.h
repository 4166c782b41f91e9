// SPDX-License-Identifier: Apache-2.0
// Uploads an archive by HTTP PUT, or to S3: in one PUT if it is small, in parts if it is large. What is there already
// is not sent again: the first 64 KiB of an archive hold its id, which is a hash over all its checksums.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "net/range_source.h"

namespace kvpack {

struct PushOptions {
  RangeSourceOptions net;
  bool overwrite = false;  // another archive under that name
  // Archives larger than this go to S3 in parts of at least this size (S3 wants 5 MiB or more, and at most 10,000).
  uint64_t part_bytes = 16 << 20;
  uint32_t parts_in_flight = 4;  // each is held in memory
  // Where the state of unfinished uploads is kept; empty: $XDG_CACHE_HOME/kvpack/push, or ~/.cache/kvpack/push.
  std::string state_folder;
  std::function<void(uint64_t done_bytes, uint64_t total_bytes)> progress;
};

struct PushReport {
  bool already_there = false;
  uint64_t archive_bytes = 0;
  uint64_t sent_bytes = 0;
  uint32_t parts = 0;          // 0: one PUT
  uint32_t resumed_parts = 0;  // sent by an earlier, interrupted push
};

// `url`: http(s):// or s3://. Where it ends with '/', the file's name is appended. Errors: invalid_argument (another
// archive is there and may not be overwritten), network, what opening the archive gives.
Result<PushReport> push_archive(const std::string& path, const std::string& url, const PushOptions& options);
// The URL that push_archive would write to.
std::string push_target(const std::string& path, const std::string& url);

}  // namespace kvpack
