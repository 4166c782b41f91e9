// SPDX-License-Identifier: Apache-2.0
// Reading: memory, regular files, standard input. Writing is in atomic_file.cc.
#include "formats/byte_io.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>

#include "formats/open_file.h"

namespace kvpack {
namespace {

class FileSource : public ByteSource {
 public:
  FileSource(OpenFile file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
  uint64_t size() const override { return file_.size; }
  std::string name() const override { return path_; }

  Result<Bytes> read(uint64_t offset, uint64_t count) override {
    if (offset > file_.size || count > file_.size - offset) {
      return truncated(
          fmt::format("{}: {} bytes at offset {} asked for, the file has {}", path_, count, offset, file_.size));
    }
    Bytes bytes(count);
    KVPACK_RETURN_IF_ERROR(read_at(file_.fd.get(), path_, offset, bytes));
    return bytes;
  }

 private:
  OpenFile file_;
  std::string path_;
};

Result<Bytes> read_stream(int fd, const std::string& name, uint64_t limit_bytes) {
  constexpr uint64_t kFirstBytes = 1 << 16;
  Bytes bytes;
  uint64_t done = 0;
  for (;;) {
    // One byte more than the limit, so that reaching it and exceeding it can be told apart.
    const uint64_t ceiling = limit_bytes == UINT64_MAX ? limit_bytes : limit_bytes + 1;
    bytes.resize(std::min(ceiling, std::max(kFirstBytes, 2 * done)));
    KVPACK_ASSIGN_OR_RETURN(const uint64_t got, read_up_to(fd, name, MutableByteSpan(bytes).subspan(done)));
    done += got;
    if (done > limit_bytes) return limit_exceeded(fmt::format("{}: more than {} bytes", name, limit_bytes));
    if (done < bytes.size()) break;
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace

Result<Bytes> MemorySource::read(uint64_t offset, uint64_t count) {
  if (offset > bytes_.size() || count > bytes_.size() - offset) {
    return truncated(
        fmt::format("{}: {} bytes at offset {} asked for, it has {}", name_, count, offset, bytes_.size()));
  }
  const ByteSpan view = bytes_.subspan(offset, count);
  return Bytes(view.begin(), view.end());
}

void MemorySink::expect(uint64_t bytes) {
  bytes_.reserve(bytes_.size() + bytes);
  // Large pages, where the room is new: touching it once in small ones takes as long as filling it.
  constexpr uint64_t kLargePage = 2u << 20;
  const uint64_t begin = reinterpret_cast<uintptr_t>(bytes_.data() + bytes_.size());
  const uint64_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
  const uint64_t end = (begin + bytes) / kLargePage * kLargePage;
  if (end > first) ::madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);  // advice only
}

Status MemorySink::write(ByteSpan bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  return {};
}

Result<std::unique_ptr<ByteSource>> open_file_source(const std::string& path) {
  KVPACK_ASSIGN_OR_RETURN(OpenFile file, open_regular_file(path));
  return std::unique_ptr<ByteSource>(std::make_unique<FileSource>(std::move(file), path));
}

Result<Bytes> read_whole_file(const std::string& path, uint64_t limit_bytes) {
  if (path == "-") return read_stream(STDIN_FILENO, "standard input", limit_bytes);
  KVPACK_ASSIGN_OR_RETURN(const OpenFile file, open_regular_file(path));
  if (file.size > limit_bytes) {
    return limit_exceeded(fmt::format("{}: {} bytes, at most {} are read", path, file.size, limit_bytes));
  }
  Bytes bytes(file.size);
  KVPACK_ASSIGN_OR_RETURN(const uint64_t got, read_up_to(file.fd.get(), path, bytes));
  std::byte extra;
  KVPACK_ASSIGN_OR_RETURN(const uint64_t beyond, read_up_to(file.fd.get(), path, MutableByteSpan(&extra, 1)));
  if (got != file.size || beyond != 0) {
    return truncated(fmt::format("{}: {} bytes long when opened, {} when read: it changed meanwhile", path, file.size,
                                 beyond != 0 ? "longer" : fmt::format("{}", got)));
  }
  return bytes;
}

}  // namespace kvpack
