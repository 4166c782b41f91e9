// SPDX-License-Identifier: Apache-2.0
// Writing: standard output, and files that appear whole or not at all.
#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "formats/byte_io.h"
#include "formats/open_file.h"

namespace kvpack {
namespace {

constexpr uint64_t kWriteBackBytes = 32 << 20;  // after so many more the disk is told to begin

// Paths that a signal handler may unlink. Fixed in size and never freed, because a handler may neither lock nor
// allocate. A slot is filled before it is marked ready.
constexpr int kSignalSlots = 64;
enum SlotState : int { kFree, kFilling, kReady };
struct SignalSlot {
  std::atomic<int> state{kFree};
  char path[PATH_MAX] = {};
};
SignalSlot g_signal_slots[kSignalSlots];
static_assert(std::atomic<int>::is_always_lock_free);

int register_temporary_path(const std::string& path) {
  if (path.size() >= PATH_MAX) return -1;
  for (int i = 0; i < kSignalSlots; ++i) {
    int expected = kFree;
    if (!g_signal_slots[i].state.compare_exchange_strong(expected, kFilling)) continue;
    std::memcpy(g_signal_slots[i].path, path.c_str(), path.size() + 1);
    g_signal_slots[i].state.store(kReady);
    return i;
  }
  return -1;
}

void forget_temporary_path(int slot) {
  if (slot >= 0) g_signal_slots[slot].state.store(kFree);
}

// Installed with SA_RESETHAND, so raising the signal again, once this returns, ends the process the default way.
void on_fatal_signal(int signal_number) {
  if (signal_number == SIGBUS) {
    constexpr char kMessage[] = "kvpack: error: a file became shorter while it was being read, or its disk failed\n";
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kMessage, sizeof kMessage - 1);
  }
  for (SignalSlot& slot : g_signal_slots) {
    if (slot.state.load() == kReady) ::unlink(slot.path);
  }
  ::raise(signal_number);
}

Status write_all(int fd, const std::string& name, ByteSpan bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), std::min<uint64_t>(bytes.size(), kMaxTransferBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_error(name, "cannot write", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

// Some file systems cannot sync (EINVAL); that is no reason to lose the file.
Status sync(int fd, const std::string& name) {
  while (::fsync(fd) != 0) {
    if (errno == EINTR) continue;
    if (errno == EINVAL || errno == ENOTSUP) return {};
    return system_error(name, "cannot sync", errno);
  }
  return {};
}

Result<std::string> resolved(const std::string& path) {
  char* absolute = ::realpath(path.c_str(), nullptr);
  if (absolute == nullptr) return system_error(path, "cannot resolve", errno);
  std::string copy(absolute);
  std::free(absolute);
  return copy;
}

Error already_exists(const std::string& path) { return io_error(path + ": already exists and is kept"); }

// Where the file will really lie: absolute, symbolic links followed. An error if something else is in the way.
Result<std::string> resolve_target(const std::string& path, bool overwrite) {
  struct stat info;
  if (::stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      return io_error(fmt::format("{}: is {}, cannot be replaced by a file", path, file_type_name(info.st_mode)));
    }
    if (!overwrite) return already_exists(path);
    return resolved(path);
  }
  if (errno != ENOENT) return system_error(path, "cannot create", errno);
  if (::lstat(path.c_str(), &info) == 0) return io_error(path + ": is a symbolic link to nothing");
  const size_t slash = path.rfind('/');
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (name.empty()) return io_error(fmt::format("{}: no file name", path.empty() ? "''" : path));
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
  KVPACK_ASSIGN_OR_RETURN(std::string target, resolved(folder));
  if (target.back() != '/') target += '/';
  return target + name;
}

Result<std::string> random_temporary_path(const std::string& folder) {
  uint64_t suffix = 0;
  if (::getentropy(&suffix, sizeof suffix) != 0) return system_error(folder, "no random numbers", errno);
  return fmt::format("{}/.kvpack-{:016x}.tmp", folder, suffix);
}

// rename() that fails with EEXIST instead of replacing. errno is set on failure.
bool rename_no_replace(const char* from, const char* to) {
#ifdef RENAME_NOREPLACE
  if (::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return true;
  if (errno != EINVAL && errno != ENOSYS) return false;
#endif
  if (::link(from, to) == 0) {
    ::unlink(from);
    return true;
  }
  if (errno != EPERM && errno != ENOTSUP && errno != EMLINK) return false;
  // A file system with neither (FAT over FUSE, for instance): the best left is to look first.
  struct stat info;
  if (::lstat(to, &info) == 0) {
    errno = EEXIST;
    return false;
  }
  return ::rename(from, to) == 0;
}

class StdoutSink : public ByteSink {
 public:
  Status write(ByteSpan bytes) override { return write_all(STDOUT_FILENO, "standard output", bytes); }
};

}  // namespace

ScratchPath::ScratchPath(std::string path) : path_(std::move(path)), signal_slot_(register_temporary_path(path_)) {}

ScratchPath::~ScratchPath() {
  ::unlink(path_.c_str());
  forget_temporary_path(signal_slot_);
}

void remove_temporary_files_on_signal() {
  for (const int signal_number : {SIGINT, SIGTERM, SIGHUP, SIGBUS}) {
    struct sigaction previous = {};
    if (::sigaction(signal_number, nullptr, &previous) == 0 && previous.sa_handler == SIG_IGN) continue;
    struct sigaction action = {};
    action.sa_handler = on_fatal_signal;
    action.sa_flags = SA_RESETHAND;
    ::sigemptyset(&action.sa_mask);
    ::sigaction(signal_number, &action, nullptr);
  }
}

std::unique_ptr<ByteSink> stdout_sink() { return std::make_unique<StdoutSink>(); }

Result<std::unique_ptr<AtomicFile>> AtomicFile::create(const std::string& path, bool overwrite) {
  KVPACK_ASSIGN_OR_RETURN(std::string target, resolve_target(path, overwrite));
  std::unique_ptr<AtomicFile> file(new AtomicFile());
  file->folder_ = target.substr(0, std::max<size_t>(target.rfind('/'), 1));
  file->path_ = std::move(target);
  file->overwrite_ = overwrite;
  constexpr int kAttempts = 16;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    KVPACK_ASSIGN_OR_RETURN(std::string temporary, random_temporary_path(file->folder_));
    // Registered first, so that no signal finds the file and not its path.
    const int slot = register_temporary_path(temporary);
    // Mode 0666 less the umask, as any newly written file would have.
    const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) {
      file->fd_ = fd;
      file->signal_slot_ = slot;
      file->temporary_path_ = std::move(temporary);
      return file;
    }
    forget_temporary_path(slot);
    if (errno != EEXIST && errno != EINTR) break;
  }
  return system_error(path, "cannot create a temporary file beside it", errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_path_.empty()) ::unlink(temporary_path_.c_str());
  forget_temporary_path(signal_slot_);
}

Status AtomicFile::write(ByteSpan bytes) {
  if (fd_ < 0 || failed_) return io_error(path_ + ": no longer open for writing");
  const Status status = write_all(fd_, path_, bytes);
  failed_ = !status.ok();
  return status;
}

Status AtomicFile::set_size(uint64_t bytes) {
  if (fd_ < 0 || failed_) return io_error(path_ + ": no longer open for writing");
  if (::ftruncate(fd_, static_cast<off_t>(bytes)) == 0) return {};
  failed_ = true;
  return system_error(path_, "cannot be made that long", errno);
}

Status AtomicFile::write_at(uint64_t offset, ByteSpan bytes) {
  if (fd_ < 0 || failed_) return io_error(path_ + ": no longer open for writing");
  const Status status = kvpack::write_at(fd_, path_, offset, bytes);
  if (!status.ok()) failed_ = true;
#ifdef SYNC_FILE_RANGE_WRITE
  // The disk begins now, so that commit() has little left to wait for. Without waiting; a failure shows there.
  const uint64_t written = written_at_ += bytes.size();
  if (written / kWriteBackBytes != (written - bytes.size()) / kWriteBackBytes) {
    ::sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WRITE);
  }
#endif
  return status;
}

Status AtomicFile::commit(bool survives_power_cut) {
  if (fd_ < 0 || failed_) return io_error(path_ + ": cannot be committed after a failure or a second time");
  failed_ = true;  // until everything below has worked
  if (survives_power_cut) KVPACK_RETURN_IF_ERROR(sync(fd_, path_));
  // close() may report a delayed write error (NFS). After EINTR the descriptor's state is unspecified: leave it.
  const int closed = ::close(std::exchange(fd_, -1));
  if (closed != 0 && errno != EINTR) return system_error(path_, "cannot close", errno);
  const bool renamed = overwrite_ ? ::rename(temporary_path_.c_str(), path_.c_str()) == 0
                                  : rename_no_replace(temporary_path_.c_str(), path_.c_str());
  if (!renamed) return errno == EEXIST ? already_exists(path_) : system_error(path_, "cannot rename into place", errno);
  temporary_path_.clear();
  forget_temporary_path(std::exchange(signal_slot_, -1));
  if (!survives_power_cut) return {};
  // Without this the name may not survive a power cut. Folders that cannot be opened for reading are left alone.
  const FileDescriptor folder(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return folder.get() < 0 ? Status() : sync(folder.get(), folder_);
}

}  // namespace kvpack
