// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "formats/byte_io.h"

using namespace kvpack;
namespace fs = std::filesystem;

namespace {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "kvpack-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::permissions(path_, fs::perms::owner_all, ignored);
    fs::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  const fs::path& path() const { return path_; }
  size_t entries() const { return static_cast<size_t>(std::distance(fs::directory_iterator(path_), {})); }

 private:
  fs::path path_;
};

void put_file(const std::string& path, std::string_view text) { std::ofstream(path, std::ios::binary) << text; }

std::string text_of(const std::string& path) { return std::string(as_text(read_whole_file(path).value())); }

Status write_file(const std::string& path, std::string_view text, bool overwrite) {
  KVPACK_ASSIGN_OR_RETURN(auto file, AtomicFile::create(path, overwrite));
  KVPACK_RETURN_IF_ERROR(file->write(as_byte_span(text)));
  return file->commit();
}

void check_io_error(const Status& status, const std::string& path, std::string_view text) {
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().kind == ErrorKind::kIo);
  CAPTURE(status.error().message);
  CHECK(status.error().message.find(path) != std::string::npos);
  CHECK(status.error().message.find(text) != std::string::npos);
}

template <typename T>
Status status_of(const Result<T>& result) {
  return result.ok() ? Status() : Status(result.error());
}

}  // namespace

TEST_CASE("atomic file: appears on commit, whole, with the umask's mode") {
  TemporaryFolder folder;
  const std::string path = folder / "out.kvp";
  {
    auto file = AtomicFile::create(path, false).value();
    REQUIRE(file->write(as_byte_span("hello ")).ok());
    CHECK_FALSE(fs::exists(path));
    REQUIRE(file->write(as_byte_span("world")).ok());
    REQUIRE(file->commit().ok());
    CHECK_FALSE(file->commit().ok());
    CHECK_FALSE(file->write(as_byte_span("!")).ok());
  }
  CHECK(text_of(path) == "hello world");
  CHECK(folder.entries() == 1);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  struct stat info;
  REQUIRE(::stat(path.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == (0666 & ~mask));
}

TEST_CASE("atomic file: without commit nothing is left, and an existing file is untouched") {
  TemporaryFolder folder;
  const std::string path = folder / "out.kvp";
  REQUIRE(AtomicFile::create(path, false).value()->write(as_byte_span("lost")).ok());
  CHECK(folder.entries() == 0);
  put_file(path, "old");
  REQUIRE(AtomicFile::create(path, true).value()->write(as_byte_span("lost")).ok());
  CHECK(text_of(path) == "old");
  CHECK(folder.entries() == 1);
}

TEST_CASE("atomic file: an existing file is kept unless overwrite") {
  TemporaryFolder folder;
  const std::string path = folder / "out.kvp";
  put_file(path, "old");
  check_io_error(write_file(path, "new", false), path, "already exists");
  CHECK(text_of(path) == "old");
  CHECK(write_file(path, "new", true).ok());
  CHECK(text_of(path) == "new");
  CHECK(folder.entries() == 1);
}

TEST_CASE("atomic file: a file that appears before commit is kept") {
  TemporaryFolder folder;
  const std::string path = folder / "out.kvp";
  auto file = AtomicFile::create(path, false).value();
  put_file(path, "theirs");
  check_io_error(file->commit(), path, "already exists");
  file.reset();
  CHECK(text_of(path) == "theirs");
  CHECK(folder.entries() == 1);
}

TEST_CASE("atomic file: a symbolic link to a file is followed, one to nothing refused") {
  TemporaryFolder folder;
  put_file(folder / "real", "old");
  fs::create_symlink("real", folder / "link");
  fs::create_symlink("nowhere", folder / "dangling");
  CHECK(write_file(folder / "link", "new", true).ok());
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(text_of(folder / "real") == "new");
  check_io_error(write_file(folder / "dangling", "new", true), "dangling", "symbolic link to nothing");
}

TEST_CASE("atomic file: folders, devices and FIFOs are not replaced") {
  TemporaryFolder folder;
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  check_io_error(write_file(folder.path().string(), "x", true), folder.path().string(), "a folder");
  check_io_error(write_file(folder / "fifo", "x", true), "fifo", "a FIFO");
  check_io_error(write_file("/dev/null", "x", true), "/dev/null", "a device");
  check_io_error(write_file(folder / "missing/out", "x", true), "missing", "No such file");
  check_io_error(write_file(folder / "new/", "x", true), "new/", "no file name");
}

TEST_CASE("atomic file: a read-only folder is an error that names it") {
  if (::geteuid() == 0) return;  // root may write anywhere
  TemporaryFolder folder;
  fs::permissions(folder.path(), fs::perms::owner_read | fs::perms::owner_exec);
  check_io_error(write_file(folder / "out", "x", false), "out", "Permission denied");
  CHECK(folder.entries() == 0);
}

TEST_CASE("atomic file: a full disk leaves nothing") {
  TemporaryFolder folder;
  const std::string path = folder / "out";
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {  // a file size limit stands in for the disk
    ::signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    auto file = AtomicFile::create(path, false);
    const bool failed = file.ok() && !(*file)->write(Bytes(5000)).ok() && !(*file)->commit().ok();
    file = io_error("closed");
    ::_exit(failed ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  CHECK(folder.entries() == 0);
}

TEST_CASE("atomic file: a signal removes the temporary file and still ends the process") {
  for (const int signal_number : {SIGINT, SIGTERM, SIGHUP}) {
    TemporaryFolder folder;
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::signal(signal_number, SIG_DFL);
      remove_temporary_files_on_signal();
      auto file = AtomicFile::create(folder / "out", false);
      if (!file.ok() || folder.entries() != 1) ::_exit(1);
      ::raise(signal_number);
      ::_exit(2);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK((WIFSIGNALED(status) && WTERMSIG(status) == signal_number));
    CHECK(folder.entries() == 0);
  }
}

TEST_CASE("file source: regular files only, bounds checked, shrinking noticed") {
  TemporaryFolder folder;
  put_file(folder / "data", "0123456789");
  auto source = open_file_source(folder / "data").value();
  CHECK(source->size() == 10);
  CHECK(as_text(source->read(3, 4).value()) == "3456");
  CHECK(source->read(10, 0).ok());
  CHECK(source->read(9, 2).error().kind == ErrorKind::kTruncated);
  CHECK(source->read(~0ull, 2).error().kind == ErrorKind::kTruncated);
  fs::resize_file(folder / "data", 5);
  CHECK(source->read(0, 10).error().kind == ErrorKind::kTruncated);

  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  check_io_error(status_of(open_file_source(folder / "fifo")), "fifo", "a FIFO");
  check_io_error(status_of(open_file_source(folder.path().string())), folder.path().string(), "a folder");
  check_io_error(status_of(open_file_source("/dev/zero")), "/dev/zero", "a device");
  check_io_error(status_of(open_file_source(folder / "missing")), "missing", "No such file");
}

TEST_CASE("whole files: read to the end, within the limit, from regular files only") {
  TemporaryFolder folder;
  put_file(folder / "data", "0123456789");
  put_file(folder / "empty", "");
  CHECK(text_of(folder / "data") == "0123456789");
  CHECK(text_of(folder / "empty").empty());
  CHECK(read_whole_file(folder / "data", 10).ok());
  CHECK(read_whole_file(folder / "data", 9).error().kind == ErrorKind::kLimit);
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  check_io_error(status_of(read_whole_file(folder / "fifo")), "fifo", "a FIFO");
  check_io_error(status_of(read_whole_file(folder.path().string())), folder.path().string(), "a folder");
  // A file whose size is not what reading it gives.
  if (fs::exists("/proc/self/status"))
    CHECK(read_whole_file("/proc/self/status").error().kind == ErrorKind::kTruncated);
}

TEST_CASE("standard input: pipes are read to their end, within the limit") {
  for (const size_t bytes : {size_t{0}, size_t{10}, size_t{65536}, size_t{300000}}) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::close(ends[0]);
      const std::string text(bytes, 'x');
      size_t done = 0;
      while (done < bytes) {
        const ssize_t written = ::write(ends[1], text.data() + done, bytes - done);
        if (written <= 0) break;
        done += static_cast<size_t>(written);
      }
      ::_exit(0);
    }
    ::close(ends[1]);
    const int saved = ::dup(STDIN_FILENO);
    ::dup2(ends[0], STDIN_FILENO);
    ::close(ends[0]);
    const auto read = read_whole_file("-", 200000);
    ::dup2(saved, STDIN_FILENO);
    ::close(saved);
    ::waitpid(child, nullptr, 0);
    if (bytes <= 200000) {
      CHECK(read.value().size() == bytes);
    } else {
      CHECK(read.error().kind == ErrorKind::kLimit);
    }
  }
}
