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
constexpr uint64_t kLargePage = 2 << 20;

uint64_t whole_large_pages(uint64_t bytes) { return (bytes + kLargePage - 1) / kLargePage * kLargePage; }

}  // namespace

FileBytes::~FileBytes() {
  if (mapping_ == Mapping::kNone) return;
  const uint64_t mapped = mapping_ == Mapping::kMemory ? whole_large_pages(view_.size()) : view_.size();
  ::munmap(const_cast<std::byte*>(view_.data()), mapped);
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
  if (bytes < kLargePage) {  // not worth one
    const auto small = std::make_shared<FileBytes>(Bytes(bytes));
    into = MutableByteSpan(small->owned_);
    return std::shared_ptr<const FileBytes>(small);
  }
  // From one large page's boundary to another: the parts outside them would have small pages.
  if (bytes > UINT64_MAX / 2) return limit_exceeded(fmt::format("cannot get {} bytes of memory", bytes));
  const uint64_t whole = whole_large_pages(bytes);
  void* at = ::mmap(nullptr, whole + kLargePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return limit_exceeded(fmt::format("cannot get {} bytes of memory", bytes));
  auto* const begin = static_cast<std::byte*>(at);
  const uint64_t before = (kLargePage - reinterpret_cast<uintptr_t>(at) % kLargePage) % kLargePage;
  if (before > 0) ::munmap(begin, before);
  ::munmap(begin + before + whole, kLargePage - before);
  ::madvise(begin + before, whole, MADV_HUGEPAGE);  // advice: without large pages it goes on with small ones
  into = MutableByteSpan(begin + before, bytes);
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
