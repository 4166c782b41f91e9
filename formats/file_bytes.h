// SPDX-License-Identifier: Apache-2.0
// The bytes of a file that is being read: in memory, or mapped from the disk. A mapping's pages count as the process's
// memory once they are touched; whoever reads values through it says so (note_reads), and now and then all of them
// are given back, so that a file of any size is read in bounded memory. They stay in the system's file cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "formats/byte_io.h"
#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

class FileBytes {
 public:
  // At most this much of a mapping is kept in the process's memory, whatever the number of threads.
  static constexpr uint64_t kResidentBytes = 64ull << 20;

  explicit FileBytes(Bytes bytes) : owned_(std::move(bytes)), view_(owned_) {}
  ~FileBytes();
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  // A regular file, or standard input for "-". The first is mapped, not read; of the second, what exceeds 64 MiB goes
  // to an unlinked temporary file ($TMPDIR, else /tmp). Errors: io, limit (more than `limit_bytes`). A mapped file must
  // keep its length meanwhile: where it shrinks, touching it raises SIGBUS (see remove_temporary_files_on_signal).
  static Result<std::shared_ptr<const FileBytes>> open(const std::string& path, uint64_t limit_bytes = 1ull << 40);

  // Zeros in memory, for the caller to fill through `into` before anybody else reads. Asked of the system in pages as
  // large as it has, from 2 MiB on: in small ones, getting fresh memory costs as much as decoding into it. Errors:
  // limit.
  static Result<std::shared_ptr<const FileBytes>> zeros(uint64_t bytes, MutableByteSpan& into);

  const std::byte* data() const { return view_.data(); }
  size_t size() const { return view_.size(); }
  operator ByteSpan() const { return view_; }
  bool is_mapped() const { return mapping_ == Mapping::kFile; }

  // About to read, or just read: `runs` pieces of `run_bytes` each, wherever they lie. From any thread.
  void note_reads(uint64_t runs, uint64_t run_bytes) const;

 private:
  enum class Mapping { kNone, kMemory, kFile };
  FileBytes(ByteSpan view, Mapping mapping) : view_(view), mapping_(mapping) {}
  static Result<std::shared_ptr<const FileBytes>> map(int fd, const std::string& name, uint64_t bytes);

  Bytes owned_;
  ByteSpan view_;
  Mapping mapping_ = Mapping::kNone;
  mutable std::atomic<uint64_t> touched_{0};  // bytes that may be resident
};

// The same as a source of ranges.
class FileBytesSource : public ByteSource {
 public:
  FileBytesSource(std::shared_ptr<const FileBytes> bytes, std::string name)
      : bytes_(std::move(bytes)), memory_(*bytes_, std::move(name)) {}
  uint64_t size() const override { return memory_.size(); }
  std::string name() const override { return memory_.name(); }
  Result<Bytes> read(uint64_t offset, uint64_t count) override {
    bytes_->note_reads(1, count);
    return memory_.read(offset, count);
  }

 private:
  std::shared_ptr<const FileBytes> bytes_;
  MemorySource memory_;
};

}  // namespace kvpack
