// SPDX-License-Identifier: Apache-2.0
#include "net/served_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "formats/checksum.h"

namespace kvpack {
namespace {

constexpr uint64_t kHashSliceBytes = 1 << 20;
constexpr size_t kMaxCachedEtags = 1 << 16;

Error nothing_there() { return invalid_argument("nothing is served under that name"); }

bool may_be_served(std::string_view name) {
  return !name.empty() && name.front() != '.' && name.find('\0') == std::string_view::npos;
}

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

}  // namespace

Status ServedFile::read(uint64_t offset, MutableByteSpan out) const {
  uint64_t done = 0;
  while (done < out.size()) {
    const uint64_t count = std::min<uint64_t>(out.size() - done, kMaxTransferBytes);
    const ssize_t got = ::pread(fd.get(), out.data() + done, count, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error("served file", "cannot read", errno);
    if (got == 0) return truncated("served file: it shrank while being read");
    done += static_cast<uint64_t>(got);
  }
  return {};
}

Result<ServedFolder> ServedFolder::open(const std::string& path) {
  ServedFolder folder;
  folder.root_ = FileDescriptor(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.root_.get() < 0) return system_error(path, "cannot open as a folder", errno);
  return folder;
}

// One component at a time, each opened from the one before and never through a link.
Result<ServedFile> ServedFolder::find(std::string_view path) {
  ServedFile found;
  found.fd = FileDescriptor(::openat(root_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  while (!path.empty()) {
    const std::string name(path.substr(0, path.find('/')));
    path.remove_prefix(std::min(name.size() + 1, path.size()));
    if (name.empty()) continue;
    if (!may_be_served(name)) return nothing_there();
    // O_NONBLOCK: opening a FIFO must not wait.
    found.fd = FileDescriptor(::openat(found.fd.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (found.fd.get() < 0) return nothing_there();
  }
  struct stat info {};
  if (found.fd.get() < 0 || ::fstat(found.fd.get(), &info) != 0) return nothing_there();
  found.is_folder = S_ISDIR(info.st_mode);
  if (found.is_folder) return found;
  if (!S_ISREG(info.st_mode)) return nothing_there();
  found.bytes = static_cast<uint64_t>(info.st_size);
  const FileFacts facts = {info.st_dev, info.st_ino, found.bytes, nanoseconds(info.st_mtim), nanoseconds(info.st_ctim)};
  KVPACK_ASSIGN_OR_RETURN(found.etag, etag_of(found, facts));
  return found;
}

// XXH3-128 over the XXH3-128 of each slice.
Result<std::string> ServedFolder::etag_of(const ServedFile& file, const FileFacts& facts) {
  {
    const std::lock_guard lock(cache_->mutex);
    const auto known = cache_->etags.find(facts);
    if (known != cache_->etags.end()) return known->second;
  }
  Bytes hashes;
  Bytes slice;
  for (uint64_t offset = 0; offset < file.bytes; offset += slice.size()) {
    slice.resize(std::min(kHashSliceBytes, file.bytes - offset));
    KVPACK_RETURN_IF_ERROR(file.read(offset, slice));
    const auto hash = xxh3_128(slice);
    hashes.insert(hashes.end(), hash.begin(), hash.end());
  }
  std::string etag = '"' + xxh3_128_hex(hashes) + '"';
  const std::lock_guard lock(cache_->mutex);
  if (cache_->etags.size() >= kMaxCachedEtags) cache_->etags.clear();
  cache_->etags[facts] = etag;
  return etag;
}

Result<std::vector<ServedEntry>> ServedFolder::list(const ServedFile& folder) const {
  const int copy = ::openat(folder.fd.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* stream = copy < 0 ? nullptr : ::fdopendir(copy);  // owns `copy`
  if (stream == nullptr) {
    const int error = errno;
    if (copy >= 0) ::close(copy);
    return system_error("served folder", "cannot list", error);
  }
  std::vector<ServedEntry> entries;
  while (const dirent* item = ::readdir(stream)) {
    struct stat info {};
    if (!may_be_served(item->d_name)) continue;
    if (::fstatat(folder.fd.get(), item->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) continue;
    const bool is_folder = S_ISDIR(info.st_mode);
    entries.push_back({item->d_name, is_folder ? 0 : static_cast<uint64_t>(info.st_size), is_folder});
  }
  ::closedir(stream);
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return entries;
}

void ServedFolder::hash_all(const std::atomic<bool>& stop) { hash_folder("", stop); }

void ServedFolder::hash_folder(const std::string& path, const std::atomic<bool>& stop) {
  const auto folder = find(path);
  if (!folder.ok() || !folder->is_folder) return;
  const auto entries = list(*folder);
  if (!entries.ok()) return;
  for (const ServedEntry& entry : *entries) {
    if (stop) return;
    const std::string inner = path + "/" + entry.name;
    if (entry.is_folder) {
      hash_folder(inner, stop);
    } else {
      (void)find(inner);
    }
  }
}

}  // namespace kvpack
