// SPDX-License-Identifier: Apache-2.0
// Colours: --color decides; with `auto` a terminal gets them unless NO_COLOR is set (https://no-color.org) or TERM is
// "dumb".
#include "cli/console.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

#include "cli/printable.h"
#include "net/url.h"

namespace kvpack::cli {
namespace {

constexpr std::string_view kRed = "\033[1;31m";
constexpr std::string_view kCyan = "\033[36m";
constexpr std::string_view kBold = "\033[1m";
constexpr std::string_view kPlain = "\033[0m";

bool is_capable_terminal(int fd) {
  const char* term = std::getenv("TERM");
  return ::isatty(fd) != 0 && term != nullptr && std::string_view(term) != "dumb";
}

bool wants_color(ColorChoice choice, int fd) {
  if (choice != ColorChoice::kAuto) return choice == ColorChoice::kAlways;
  const char* no_color = std::getenv("NO_COLOR");
  return (no_color == nullptr || *no_color == '\0') && is_capable_terminal(fd);
}

}  // namespace

Error with_hint(Error error, std::string_view hint) {
  error.message += '\n';
  error.message += hint;
  return error;
}

std::string shown_name(std::string_view path) {
  if (path == "-") return "standard input";
  return is_http_url(path) ? printable_url(path) : std::string(path);
}

Error about_file(Error error, std::string_view path) {
  const std::string name = shown_name(path);
  return error.message.starts_with(name) ? error : error.within(name);
}

Console::Console(ColorChoice color, bool quiet)
    : quiet_(quiet),
      stdout_color_(wants_color(color, STDOUT_FILENO)),
      stderr_color_(wants_color(color, STDERR_FILENO)),
      stderr_can_erase_(is_capable_terminal(STDERR_FILENO)) {}

void Console::print_diagnostic(std::string_view label, std::string_view color, std::string_view text) const {
  const std::string clean = printable(text);
  if (stderr_color_) {
    fmt::print(stderr, "kvpack: {}{}:{} {}\n", color, label, kPlain, clean);
  } else {
    fmt::print(stderr, "kvpack: {}: {}\n", label, clean);
  }
}

void Console::error(const Error& error) const {
  std::string_view rest = error.message;
  for (std::string_view label = "error"; !rest.empty() || label == "error"; label = "hint") {
    const size_t end = rest.find('\n');
    print_diagnostic(label, label == "error" ? kRed : kCyan, rest.substr(0, end));
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  }
}

void Console::note(std::string_view text) const {
  if (!quiet_) print_diagnostic("note", kCyan, text);
}

// A failed write sets the stream's error flag, which flush() reports.
void Console::print(std::string_view text) const {
  (void)std::fwrite(text.data(), 1, text.size(), reports_to_stderr_ ? stderr : stdout);
}

void Console::print_json(const nlohmann::ordered_json& json) const {
  constexpr int kIndent = 2;
  constexpr bool kAsciiOnly = true;  // so that no string from a file can steer a terminal
  print(json.dump(kIndent, ' ', kAsciiOnly, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

Status Console::flush() const {
  errno = 0;
  const bool flushed = std::fflush(stdout) == 0;
  if (flushed && std::ferror(stdout) == 0) return {};
  const int reason = errno == 0 ? EIO : errno;
  return io_error("standard output: cannot write: " + std::generic_category().message(reason));
}

std::string Console::bold(std::string_view text) const {
  const bool colored = reports_to_stderr_ ? stderr_color_ : stdout_color_;
  return colored ? fmt::format("{}{}{}", kBold, text, kPlain) : std::string(text);
}

}  // namespace kvpack::cli
