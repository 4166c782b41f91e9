// SPDX-License-Identifier: Apache-2.0
#include "net/part_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "formats/byte_io.h"
#include "net/block_check.h"

namespace kvpack {
namespace {

constexpr std::array<char, 8> kMagic = {'\x8b', 'K', 'V', 'P', 'p', 'a', 'r', '1'};
constexpr uint64_t kIdBytes = 32;
constexpr uint64_t kRecordHeadBytes = 12;

Bytes head_of(const std::string& archive_id) {
  Bytes head(kMagic.size() + kIdBytes);
  std::memcpy(head.data(), kMagic.data(), kMagic.size());
  std::memcpy(head.data() + kMagic.size(), archive_id.data(), std::min<size_t>(archive_id.size(), kIdBytes));
  return head;
}

// Exactly `count` bytes at `offset`; false at the file's end and on errors: the rest is not used then.
bool read_at(int fd, uint64_t offset, uint64_t count, Bytes& out) {
  out.resize(count);
  uint64_t done = 0;
  while (done < count) {
    const uint64_t wanted = std::min(count - done, kMaxTransferBytes);
    const ssize_t got = ::pread(fd, out.data() + done, wanted, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<uint64_t>(got);
  }
  return true;
}

// Hands over the sound records; returns where the first unsound one begins.
uint64_t read_records(int fd, const Directory& directory, uint64_t offset,
                      const std::function<void(uint32_t, uint32_t, Bytes)>& found) {
  Bytes bytes;
  while (read_at(fd, offset, kRecordHeadBytes, bytes)) {
    uint32_t fields[3];
    std::memcpy(fields, bytes.data(), sizeof fields);
    const auto [level, chunk, size] = fields;
    if (level >= directory.levels || chunk >= directory.chunks.size()) break;
    if (size != directory.block(level, chunk).bytes) break;
    if (!read_at(fd, offset + kRecordHeadBytes, size, bytes)) break;
    if (!check_block(directory, level, chunk, bytes).ok()) break;
    offset += kRecordHeadBytes + size;
    found(level, chunk, std::move(bytes));
  }
  return offset;
}

}  // namespace

Result<std::unique_ptr<PartFile>> PartFile::open(const std::string& path, const std::string& archive_id,
                                                 const Directory& directory,
                                                 const std::function<void(uint32_t, uint32_t, Bytes)>& found) {
  std::unique_ptr<PartFile> part(new PartFile());
  part->path_ = path;
  part->file_ = FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  const int fd = part->file_.get();
  if (fd < 0) return system_error(path, "cannot open", errno);
  struct stat info {};
  if (::fstat(fd, &info) != 0) return system_error(path, "cannot stat", errno);
  if (!S_ISREG(info.st_mode)) return io_error(path + ": is " + std::string(file_type_name(info.st_mode)));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return errno == EWOULDBLOCK ? io_error(path + ": another process is fetching to it")
                                : system_error(path, "cannot lock", errno);
  }
  const Bytes head = head_of(archive_id);
  Bytes begin;
  uint64_t end = 0;
  if (read_at(fd, 0, head.size(), begin) && begin == head) end = read_records(fd, directory, head.size(), found);
  if (::ftruncate(fd, static_cast<off_t>(end)) != 0) return system_error(path, "cannot shorten", errno);
  if (::lseek(fd, static_cast<off_t>(end), SEEK_SET) < 0) return system_error(path, "cannot seek", errno);
  if (end == 0) KVPACK_RETURN_IF_ERROR(part->write_all(head));
  return part;
}

Status PartFile::write_all(ByteSpan bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_.get(), bytes.data(), std::min<uint64_t>(bytes.size(), kMaxTransferBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_error(path_, "cannot write", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

Status PartFile::append(uint32_t level, uint32_t chunk, ByteSpan block) {
  ByteWriter record;
  record.write(level);
  record.write(chunk);
  record.write(static_cast<uint32_t>(block.size()));
  KVPACK_RETURN_IF_ERROR(write_all(record.bytes()));
  return write_all(block);
}

void PartFile::remove() { ::unlink(path_.c_str()); }

}  // namespace kvpack
