// SPDX-License-Identifier: Apache-2.0
// What byte_io.cc and atomic_file.cc share: an owned POSIX file descriptor, and errors that carry errno.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "formats/result.h"

namespace kvpack {

// read() and write() of more than INT_MAX bytes fail on macOS and are cut short on Linux.
inline constexpr uint64_t kMaxTransferBytes = 1ull << 30;

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// "ctx.kvp: cannot open: No such file or directory"
inline Error system_error(const std::string& path, std::string_view action, int error_number) {
  return io_error(path + ": " + std::string(action) + ": " + std::generic_category().message(error_number));
}

inline std::string_view file_type_name(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return S_ISREG(mode) ? "a regular file" : "of an unknown type";
}

}  // namespace kvpack
