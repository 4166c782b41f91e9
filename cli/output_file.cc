// SPDX-License-Identifier: Apache-2.0
#include "cli/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>

#include "cli/console.h"
#include "cli/quantities.h"

namespace kvpack::cli {
namespace {

using FileStatus = std::optional<struct stat>;

FileStatus status_of(const std::string& path, int standard_fd) {
  struct stat info;
  const int failed = path == "-" ? ::fstat(standard_fd, &info) : ::stat(path.c_str(), &info);
  return failed == 0 ? FileStatus(info) : std::nullopt;
}

bool is_same_regular_file(const FileStatus& a, const FileStatus& b) {
  return a && b && S_ISREG(a->st_mode) && a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool is_device(const FileStatus& status) { return status && (S_ISCHR(status->st_mode) || S_ISFIFO(status->st_mode)); }

// A device or FIFO (/dev/null, a named pipe): nothing to replace, so nothing to protect.
class DeviceSink : public ByteSink {
 public:
  DeviceSink(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~DeviceSink() override { ::close(fd_); }
  DeviceSink(const DeviceSink&) = delete;
  DeviceSink& operator=(const DeviceSink&) = delete;

  Status write(ByteSpan bytes) override {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return io_error(path_ + ": cannot write: " + std::generic_category().message(errno));
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return {};
  }

 private:
  int fd_;
  std::string path_;
};

}  // namespace

Result<std::unique_ptr<OutputFile>> OutputFile::prepare(const std::string& path, bool overwrite,
                                                        const std::vector<std::string>& inputs, bool binary) {
  const FileStatus status = status_of(path, STDOUT_FILENO);
  for (const std::string& input : inputs) {
    if (!is_same_regular_file(status, status_of(input, STDIN_FILENO))) continue;
    return invalid_argument(fmt::format("{}: is the input file, which is never overwritten", path));
  }
  std::unique_ptr<OutputFile> output(new OutputFile());
  output->path_ = path;
  output->overwrite_ = overwrite;
  output->is_device_ = path != "-" && is_device(status);
  const bool to_terminal = path == "-" ? ::isatty(STDOUT_FILENO) != 0 : false;
  if (to_terminal && binary) {
    return with_hint(invalid_argument("standard output is a terminal, and the output is not text"),
                     "write to a file with -o FILE, or send standard output to a pipe or a file");
  }
  if (path == "-" || output->is_device_) return output;
  // A trial run: whatever would stop the real file stops this one, and it is gone at once.
  const auto trial = AtomicFile::create(path, overwrite);
  if (trial.ok()) return output;
  const bool kept = !overwrite && status && S_ISREG(status->st_mode);
  return kept ? with_hint(trial.error(), "use -f to overwrite it") : trial.error();
}

Status OutputFile::open() {
  if (path_ == "-") {
    sink_ = stdout_sink();
  } else if (is_device_) {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return io_error(path_ + ": cannot open: " + std::generic_category().message(errno));
    sink_ = std::make_unique<DeviceSink>(fd, path_);
  } else {
    KVPACK_ASSIGN_OR_RETURN(auto file, AtomicFile::create(path_, overwrite_));
    atomic_ = file.get();
    sink_ = std::move(file);
  }
  return {};
}

Result<PlacedSink*> OutputFile::parts() {
  if (!sink_) KVPACK_RETURN_IF_ERROR(open());
  return atomic_;
}

std::string OutputFile::folder() const {
  if (path_ == "-" || is_device_) return "";
  const size_t slash = path_.rfind('/');
  return slash == std::string::npos ? "." : path_.substr(0, std::max<size_t>(slash, 1));
}

Status OutputFile::write(ByteSpan bytes) {
  Stopwatch watch;
  if (!sink_) KVPACK_RETURN_IF_ERROR(open());
  KVPACK_RETURN_IF_ERROR(sink_->write(bytes));
  bytes_written_ += bytes.size();
  write_seconds_ += watch.seconds();
  return {};
}

Status OutputFile::commit(bool survives_power_cut) {
  Stopwatch watch;
  if (!sink_) KVPACK_RETURN_IF_ERROR(open());
  if (atomic_ != nullptr) KVPACK_RETURN_IF_ERROR(atomic_->commit(survives_power_cut));
  write_seconds_ += watch.seconds();
  return {};
}

}  // namespace kvpack::cli
