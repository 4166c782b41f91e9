// SPDX-License-Identifier: Apache-2.0
// What has been fetched of an archive, as a ByteSource: a decoder reads from it while more arrives. Reads of what is
// not there are `truncated`; they never wait. Safe with several threads.
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "formats/byte_io.h"

namespace kvpack {

class FetchedArchive : public ByteSource {
 public:
  FetchedArchive(uint64_t size, std::string name) : size_(size), name_(std::move(name)) {}

  // While set: where what is not here yet is read from, and kept. For opening, before other threads read.
  void set_fallback(ByteSource* fallback) { fallback_ = fallback; }
  // Pieces that do not overlap. A read must lie within one piece, or within neighbours of it.
  void add(uint64_t offset, Bytes bytes);
  uint64_t size() const override { return size_; }
  std::string name() const override { return name_; }
  Result<Bytes> read(uint64_t offset, uint64_t count) override;

 private:
  Result<Bytes> read_here(uint64_t offset, uint64_t count);

  const uint64_t size_;
  const std::string name_;
  ByteSource* fallback_ = nullptr;
  std::mutex mutex_;
  std::map<uint64_t, Bytes> pieces_;  // [offset]
};

}  // namespace kvpack
