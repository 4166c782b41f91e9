// SPDX-License-Identifier: Apache-2.0
#include "formats/open_file.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

namespace kvpack {

Result<OpenFile> open_regular_file(const std::string& path) {
  // stat before open: opening a FIFO would wait for a writer, and opening a device may act on it.
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return system_error(path, "cannot open", errno);
  if (!S_ISREG(info.st_mode)) {
    return io_error(fmt::format("{}: is {}, expected a regular file", path, file_type_name(info.st_mode)));
  }
  OpenFile file;
  file.fd = FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd.get() < 0) return system_error(path, "cannot open", errno);
  if (::fstat(file.fd.get(), &info) != 0) return system_error(path, "cannot stat", errno);
  if (!S_ISREG(info.st_mode)) {  // swapped between the two calls
    return io_error(fmt::format("{}: is {}, expected a regular file", path, file_type_name(info.st_mode)));
  }
  file.size = static_cast<uint64_t>(info.st_size);
  return file;
}

Result<FileDescriptor> open_unlinked_file(const std::string& folder) {
  std::string path = folder + "/.kvpack-XXXXXX";
  FileDescriptor fd(::mkostemp(path.data(), O_CLOEXEC));
  if (fd.get() < 0) return system_error(folder, "cannot create a temporary file there", errno);
  ::unlink(path.c_str());
  return fd;
}

std::string temporary_folder() {
  const char* folder = std::getenv("TMPDIR");
  return folder != nullptr && *folder != '\0' ? folder : "/tmp";
}

Result<uint64_t> read_up_to(int fd, const std::string& name, MutableByteSpan out) {
  uint64_t done = 0;
  while (done < out.size()) {
    const ssize_t got = ::read(fd, out.data() + done, std::min<uint64_t>(out.size() - done, kMaxTransferBytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(name, "cannot read", errno);
    if (got == 0) break;
    done += static_cast<uint64_t>(got);
  }
  return done;
}

Status read_at(int fd, const std::string& name, uint64_t offset, MutableByteSpan out) {
  uint64_t done = 0;
  while (done < out.size()) {
    const ssize_t got = ::pread(fd, out.data() + done, std::min<uint64_t>(out.size() - done, kMaxTransferBytes),
                                static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(name, fmt::format("cannot read at offset {}", offset + done), errno);
    if (got == 0)
      return truncated(fmt::format("{}: ends at offset {}: it shrank while being read", name, offset + done));
    done += static_cast<uint64_t>(got);
  }
  return {};
}

Status write_at(int fd, const std::string& name, uint64_t offset, ByteSpan bytes) {
  while (!bytes.empty()) {
    const ssize_t written =
        ::pwrite(fd, bytes.data(), std::min<uint64_t>(bytes.size(), kMaxTransferBytes), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_error(name, "cannot write", errno);
    offset += static_cast<uint64_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

}  // namespace kvpack
