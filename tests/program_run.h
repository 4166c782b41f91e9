// SPDX-License-Identifier: Apache-2.0
// Runs the built kvpack program as a user would: arguments, standard input, environment; and what came of it.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "formats/byte_io.h"
#include "tests/engine/scratch_folder.h"
#include "tests/must.h"

namespace kvpack::test {

struct RunSettings {
  std::string input = "/dev/null";  // file that becomes standard input
  std::string output;               // file that standard output goes to; empty: captured
  bool terminal = false;            // standard error is a terminal
  std::vector<std::string> environment;
};

struct Outcome {
  int exit_code = -1;  // as a shell reports it: 128 + n after signal n
  std::string out;
  std::string err;
};

// A run in progress. Its standard streams are files in a folder of its own, or a pseudo terminal.
class ProgramRun {
 public:
  explicit ProgramRun(const std::vector<std::string>& arguments, const RunSettings& settings = {})
      : settings_(settings) {
    REQUIRE(streams_.ok());
    if (settings.terminal) {
      terminal_ = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
      REQUIRE(terminal_ >= 0);
      REQUIRE(::grantpt(terminal_) == 0);
      REQUIRE(::unlockpt(terminal_) == 0);
    }
    const std::string error_path = settings.terminal ? ::ptsname(terminal_) : streams_.file("err");
    const std::string output_path = settings.output.empty() ? streams_.file("out") : settings.output;
    std::vector<char*> argv = {const_cast<char*>("kvpack")};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    // Opened before the fork, so that a terminal keeps what is written until it is read.
    const int fds[] = {::open(settings.input.c_str(), O_RDONLY | O_CLOEXEC),
                       ::open(output_path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600),
                       ::open(error_path.c_str(), O_RDWR | O_CREAT | O_NOCTTY | O_CLOEXEC, 0600)};
    for (const int fd : fds) REQUIRE(fd >= 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) become_program(argv.data(), fds);
    ::close(fds[0]);
    ::close(fds[1]);
    error_fd_ = fds[2];
  }
  ProgramRun(const ProgramRun&) = delete;
  ProgramRun& operator=(const ProgramRun&) = delete;
  ~ProgramRun() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), wait_for_end();
    ::close(error_fd_);
    if (terminal_ >= 0) ::close(terminal_);
  }

  void send(int signal_number) const {
    if (pid_ > 0) ::kill(pid_, signal_number);
  }
  bool ended() {
    if (pid_ > 0 && ::waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = 0;
    return pid_ == 0;
  }

  Outcome finish() {
    if (pid_ > 0) wait_for_end();
    Outcome outcome;
    outcome.exit_code = WIFSIGNALED(status_) ? 128 + WTERMSIG(status_) : WEXITSTATUS(status_);
    if (settings_.output.empty()) outcome.out = as_text(must(read_whole_file(streams_.file("out"))));
    outcome.err = terminal_ < 0 ? std::string(as_text(must(read_whole_file(streams_.file("err"))))) : terminal_text();
    return outcome;
  }

 private:
  [[noreturn]] void become_program(char** argv, const int* fds) const {
    for (int i = 0; i < 3; ++i) ::dup2(fds[i], i);
    // A test runner in the background may ignore them, and the program keeps what is ignored.
    for (const int signal_number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal_number, SIG_DFL);
    ::unsetenv("NO_COLOR");
    ::setenv("TERM", "xterm", 1);
    for (const std::string& variable : settings_.environment) ::putenv(const_cast<char*>(variable.c_str()));
    ::execv(KVPACK_PROGRAM, argv);
    ::_exit(99);
  }
  void wait_for_end() {
    while (::waitpid(pid_, &status_, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
  }
  std::string terminal_text() const {
    std::string text;
    char buffer[4096];
    ::fcntl(terminal_, F_SETFL, O_NONBLOCK);
    for (ssize_t n = 0; (n = ::read(terminal_, buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<size_t>(n));
    return text;
  }

  RunSettings settings_;
  engine::ScratchFolder streams_;
  int terminal_ = -1;
  int error_fd_ = -1;
  pid_t pid_ = -1;
  int status_ = 0;
};

inline Outcome run_kvpack(const std::vector<std::string>& arguments, const RunSettings& settings = {}) {
  return ProgramRun(arguments, settings).finish();
}

}  // namespace kvpack::test
