// SPDX-License-Identifier: Apache-2.0
#include "formats/file_bytes.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "formats/file_descriptor.h"
#include "formats/open_file.h"

namespace kvpack {
namespace {

// Where a page is missing, Linux maps up to 16 of those around it that the file cache has, at either end of a run.
constexpr uint64_t kFaultAroundBytes = 64 << 10;
// Of standard input: what is kept in memory before a temporary file is made.
constexpr uint64_t kStreamBytes = FileBytes::kResidentBytes;

}  // namespace

FileBytes::~FileBytes() {
  if (mapping_ != Mapping::kNone) ::munmap(const_cast<std::byte*>(view_.data()), view_.size());
}

Result<std::shared_ptr<const FileBytes>> FileBytes::map(int fd, const std::string& name, uint64_t bytes) {
  if (bytes == 0) return std::make_shared<const FileBytes>(Bytes());
  void* at = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  if (at == MAP_FAILED) return system_error(name, "cannot map", errno);
  return std::shared_ptr<const FileBytes>(
      new FileBytes(ByteSpan(static_cast<const std::byte*>(at), bytes), Mapping::kFile));
}

Result<std::shared_ptr<const FileBytes>> FileBytes::zeros(uint64_t bytes, MutableByteSpan& into) {
  into = {};
  if (bytes == 0) return std::make_shared<const FileBytes>(Bytes());
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return limit_exceeded(fmt::format("cannot get {} bytes of memory", bytes));
  ::madvise(at, bytes, MADV_HUGEPAGE);  // advice: without large pages it goes on with small ones
  into = MutableByteSpan(static_cast<std::byte*>(at), bytes);
  return std::shared_ptr<const FileBytes>(new FileBytes(into, Mapping::kMemory));
}

Result<std::shared_ptr<const FileBytes>> FileBytes::open(const std::string& path, uint64_t limit_bytes) {
  if (path != "-") {
    KVPACK_ASSIGN_OR_RETURN(const OpenFile file, open_regular_file(path));
    if (file.size > limit_bytes) {
      return limit_exceeded(fmt::format("{}: {} bytes, at most {} are read", path, file.size, limit_bytes));
    }
    return map(file.fd.get(), path, file.size);
  }
  const std::string name = "standard input";
  Bytes head;
  uint64_t got = 0;
  while (got == head.size() && got < kStreamBytes) {
    head.resize(std::max<uint64_t>(1 << 16, std::min(kStreamBytes, 2 * got)));
    KVPACK_ASSIGN_OR_RETURN(const uint64_t more, read_up_to(STDIN_FILENO, name, MutableByteSpan(head).subspan(got)));
    got += more;
  }
  if (got > limit_bytes) return limit_exceeded(fmt::format("{}: more than {} bytes", name, limit_bytes));
  if (got < head.size()) {
    head.resize(got);
    return std::make_shared<const FileBytes>(std::move(head));
  }
  KVPACK_ASSIGN_OR_RETURN(const FileDescriptor spool, open_unlinked_file(temporary_folder()));
  uint64_t total = 0;
  for (uint64_t part = head.size(); part > 0;) {
    KVPACK_RETURN_IF_ERROR(write_at(spool.get(), name, total, ByteSpan(head).first(part)));
    total += part;
    if (total > limit_bytes) return limit_exceeded(fmt::format("{}: more than {} bytes", name, limit_bytes));
    head.resize(1 << 20);
    KVPACK_ASSIGN_OR_RETURN(part, read_up_to(STDIN_FILENO, name, head));
  }
  return map(spool.get(), name, total);
}

void FileBytes::note_reads(uint64_t runs, uint64_t run_bytes) const {
  if (!is_mapped()) return;
  const uint64_t touched = runs * (run_bytes + kFaultAroundBytes);
  if (touched_.fetch_add(touched, std::memory_order_relaxed) + touched < kResidentBytes) return;
  touched_.store(0, std::memory_order_relaxed);
  // Another thread may be reading: it finds the pages again in the file cache.
  ::madvise(const_cast<std::byte*>(view_.data()), view_.size(), MADV_DONTNEED);
}

}  // namespace kvpack
