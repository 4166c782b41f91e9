// SPDX-License-Identifier: Apache-2.0
// Where bytes come from and go to: random-access sources, sequential sinks, whole files, atomic writes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "formats/bytes.h"
#include "formats/result.h"

namespace kvpack {

// Random access, e.g. a file, a buffer, an HTTP resource.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual uint64_t size() const = 0;
  // Exactly `count` bytes at `offset`; `truncated` if the source has become shorter.
  virtual Result<Bytes> read(uint64_t offset, uint64_t count) = 0;
  virtual std::string name() const = 0;
};

class ByteSink {
 public:
  virtual ~ByteSink() = default;
  // So many bytes will come: room can be made for them at once.
  virtual void expect(uint64_t /*bytes*/) {}
  virtual Status write(ByteSpan bytes) = 0;
};

// A file whose parts are written in any order, from any thread. What is never written reads as zeros.
class PlacedSink {
 public:
  virtual ~PlacedSink() = default;
  virtual Status set_size(uint64_t bytes) = 0;  // before the first part
  virtual Status write_at(uint64_t offset, ByteSpan bytes) = 0;
};

class MemorySource : public ByteSource {
 public:
  explicit MemorySource(ByteSpan bytes, std::string name = "buffer") : bytes_(bytes), name_(std::move(name)) {}
  uint64_t size() const override { return bytes_.size(); }
  Result<Bytes> read(uint64_t offset, uint64_t count) override;
  std::string name() const override { return name_; }

 private:
  ByteSpan bytes_;
  std::string name_;
};

class MemorySink : public ByteSink {
 public:
  void expect(uint64_t bytes) override;
  Status write(ByteSpan bytes) override;
  const Bytes& bytes() const { return bytes_; }
  Bytes take() { return std::move(bytes_); }

 private:
  Bytes bytes_;
};

// A regular file, opened read-only. Folders, devices and FIFOs are refused (io, with what was found).
Result<std::unique_ptr<ByteSource>> open_file_source(const std::string& path);

// A whole file, or standard input for "-". `limit_bytes` bounds what is read (limit).
Result<Bytes> read_whole_file(const std::string& path, uint64_t limit_bytes = 1ull << 40);

// Standard output as a sink.
std::unique_ptr<ByteSink> stdout_sink();

// A new file that appears under its name only when commit() succeeds: written to a temporary file in the same folder,
// synced, renamed. Without commit(), or after a failed write, nothing is left behind. An existing file is kept unless
// `overwrite`, even one that appears between create() and commit(). A symbolic link to a file is followed; a folder,
// device, FIFO or socket under the name is an io error.
class AtomicFile : public ByteSink, public PlacedSink {
 public:
  static Result<std::unique_ptr<AtomicFile>> create(const std::string& path, bool overwrite);
  ~AtomicFile() override;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  Status write(ByteSpan bytes) override;
  Status set_size(uint64_t bytes) override;
  Status write_at(uint64_t offset, ByteSpan bytes) override;
  // `survives_power_cut`: wait until the disk has it. Without, a killed process still leaves the whole file or none,
  // but a power cut soon after may leave less.
  Status commit(bool survives_power_cut = true);

 private:
  AtomicFile() = default;
  std::string path_;
  std::string temporary_path_;
  std::string folder_;
  int fd_ = -1;
  int signal_slot_ = -1;  // in the table that remove_temporary_files_on_signal() reads
  bool overwrite_ = false;
  std::atomic<bool> failed_ = false;
  std::atomic<uint64_t> written_at_ = 0;  // bytes, by write_at()
};

// A file name that somebody else writes or reads for a while: whatever is there is removed with this object.
class ScratchPath {
 public:
  explicit ScratchPath(std::string path);
  ~ScratchPath();
  ScratchPath(const ScratchPath&) = delete;
  ScratchPath& operator=(const ScratchPath&) = delete;
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
  const int signal_slot_;
};

// From now on SIGINT, SIGTERM, SIGHUP and SIGBUS (a mapped input that shrinks; it is said so) remove the temporary
// files of all AtomicFiles and ScratchPaths (the first 64 at a time) before they end the process as they would have. A
// signal that is ignored (nohup) stays ignored. Call once, from main.
void remove_temporary_files_on_signal();

}  // namespace kvpack
