// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/run_program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

extern char** environ;

namespace kvpack::engine {

Result<double> run_program(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  const std::string command = fmt::format("{}", fmt::join(arguments, " "));
  const auto start = std::chrono::steady_clock::now();
  pid_t child = 0;
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  const int spawned = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) return io_error(fmt::format("{}: {}", command, std::strerror(spawned)));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return io_error(fmt::format("{}: {}", command, std::strerror(errno)));
  }
  if (WIFSIGNALED(status)) return io_error(fmt::format("{}: ended by signal {}", command, WTERMSIG(status)));
  if (WEXITSTATUS(status) != 0) return io_error(fmt::format("{}: exit code {}", command, WEXITSTATUS(status)));
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace kvpack::engine
