// SPDX-License-Identifier: Apache-2.0
// A file in memory whose parts are written in any order.
#pragma once

#include <algorithm>
#include <mutex>
#include <new>

#include "formats/byte_io.h"

namespace kvpack::cli {

class MemoryFile : public PlacedSink {
 public:
  // Several threads may set the same size; only the first changes anything.
  Status set_size(uint64_t bytes) override {
    const std::lock_guard lock(resizing_);
    try {
      if (bytes_.size() != bytes) bytes_.resize(bytes);
    } catch (const std::bad_alloc&) {
      return limit_exceeded("not enough memory for the decoded file");
    }
    return {};
  }
  // Parts that do not overlap may be written by several threads at once. Errors: invalid_argument past the end.
  Status write_at(uint64_t offset, ByteSpan bytes) override {
    if (offset > bytes_.size() || bytes.size() > bytes_.size() - offset) {
      return invalid_argument("written past the end of a file in memory");
    }
    std::copy(bytes.begin(), bytes.end(), bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
    return {};
  }
  Bytes take() { return std::move(bytes_); }

 private:
  std::mutex resizing_;
  Bytes bytes_;
};

}  // namespace kvpack::cli
