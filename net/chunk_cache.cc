// SPDX-License-Identifier: Apache-2.0
#include "net/chunk_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <vector>

#include "formats/byte_io.h"
#include "formats/file_descriptor.h"
#include "net/block_check.h"

namespace kvpack {
namespace {

namespace fs = std::filesystem;

struct CachedFile {
  fs::path path;
  fs::file_time_type used;
  uint64_t bytes = 0;
};

// Files may vanish while we look: another process cleans up too.
std::vector<CachedFile> cached_files(const fs::path& folder, uint64_t& total) {
  std::vector<CachedFile> files;
  std::error_code problem;
  for (fs::recursive_directory_iterator entry(folder, problem), end; !problem && entry != end;
       entry.increment(problem)) {
    std::error_code gone;
    if (!entry->is_regular_file(gone) || gone) continue;
    const uint64_t bytes = entry->file_size(gone);
    const auto used = gone ? fs::file_time_type() : entry->last_write_time(gone);
    if (gone) continue;
    total += bytes;
    files.push_back({entry->path(), used, bytes});
  }
  return files;
}

}  // namespace

std::string ChunkCache::path_of(const std::string& archive_id, const Directory& directory, uint32_t level,
                                uint32_t chunk) const {
  return fmt::format("{}/blocks/{}/{}-{}-{:016x}", folder_, archive_id, level, chunk,
                     directory.block(level, chunk).index_checksum);
}

std::optional<Bytes> ChunkCache::load(const std::string& archive_id, const Directory& directory, uint32_t level,
                                      uint32_t chunk) {
  const std::string path = path_of(archive_id, directory, level, chunk);
  std::error_code problem;
  if (!fs::is_regular_file(path, problem)) return std::nullopt;
  auto block = read_whole_file(path, directory.block(level, chunk).bytes);
  if (!block.ok() || !check_block(directory, level, chunk, *block).ok()) {
    fs::remove(path, problem);
    return std::nullopt;
  }
  fs::last_write_time(path, fs::file_time_type::clock::now(), problem);  // used just now
  return std::move(*block);
}

Status ChunkCache::store(const std::string& archive_id, const Directory& directory, uint32_t level, uint32_t chunk,
                         ByteSpan block) {
  const fs::path path = path_of(archive_id, directory, level, chunk);
  std::error_code problem;
  fs::create_directories(path.parent_path(), problem);
  if (problem) return io_error(path.parent_path().string() + ": " + problem.message());
  // Written aside and renamed, without AtomicFile's fsync: a block that a power cut tears is found by its checksum.
  const std::string aside = fmt::format("{}.{}.tmp", path.string(), ::getpid());
  {
    FileDescriptor file(::open(aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0) return system_error(aside, "cannot create", errno);
    for (ByteSpan rest = block; !rest.empty();) {
      const ssize_t written = ::write(file.get(), rest.data(), std::min<uint64_t>(rest.size(), kMaxTransferBytes));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) {
        const int error_number = errno;
        ::unlink(aside.c_str());
        return system_error(aside, "cannot write", error_number);
      }
      rest = rest.subspan(static_cast<size_t>(written));
    }
  }
  fs::rename(aside, path, problem);
  return problem ? Status(io_error(path.string() + ": " + problem.message())) : Status();
}

Status ChunkCache::clean_up() {
  const fs::path blocks = fs::path(folder_) / "blocks";
  std::error_code problem;
  if (!fs::is_directory(blocks, problem)) return {};
  const std::string lock_path = folder_ + "/lock";
  FileDescriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (lock.get() < 0) return system_error(lock_path, "cannot open", errno);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return {};
  uint64_t total = 0;
  std::vector<CachedFile> files = cached_files(blocks, total);
  std::sort(files.begin(), files.end(), [](const CachedFile& a, const CachedFile& b) { return a.used < b.used; });
  for (const CachedFile& file : files) {
    if (total <= limit_bytes_) break;
    if (fs::remove(file.path, problem)) total -= file.bytes;
    fs::remove(file.path.parent_path(), problem);  // only if it is empty now
  }
  return {};
}

}  // namespace kvpack
