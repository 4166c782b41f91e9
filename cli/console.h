// SPDX-License-Identifier: Apache-2.0
// Where the program speaks: data on standard output, everything else on standard error, colour only where wanted.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "formats/result.h"

namespace kvpack::cli {

enum class ColorChoice { kAuto, kAlways, kNever };

// The same error with a line of advice, which Console::error prints on a line of its own.
Error with_hint(Error error, std::string_view hint);
// How a file, "-" or URL that the user named is called in output: a URL without its query, which may hold a signature.
std::string shown_name(std::string_view path);
// The same error with the file's name in front, unless it is there already.
Error about_file(Error error, std::string_view path);

class Console {
 public:
  Console() : Console(ColorChoice::kAuto, false) {}
  Console(ColorChoice color, bool quiet);

  // Standard error. The text is made printable; notes are left out with --quiet.
  void error(const Error& error) const;
  void note(std::string_view text) const;

  // Standard output, or standard error when the archive or file itself goes to standard output.
  void send_reports_to_stderr() { reports_to_stderr_ = true; }
  void print(std::string_view text) const;
  void print_json(const nlohmann::ordered_json& json) const;
  // Flushes standard output; io if anything was lost on the way.
  Status flush() const;

  bool quiet() const { return quiet_; }
  // Progress goes to terminals only, and those that can erase a line.
  bool shows_progress() const { return !quiet_ && stderr_can_erase_; }
  std::string bold(std::string_view text) const;

 private:
  void print_diagnostic(std::string_view label, std::string_view color, std::string_view text) const;

  bool quiet_ = false;
  bool stdout_color_ = false;
  bool stderr_color_ = false;
  bool stderr_can_erase_ = false;
  bool reports_to_stderr_ = false;
};

}  // namespace kvpack::cli
