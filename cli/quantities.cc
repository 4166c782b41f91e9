// SPDX-License-Identifier: Apache-2.0
#include "cli/quantities.h"

#include <fmt/format.h>

#include <cmath>

namespace kvpack::cli {

std::string grouped(uint64_t number) {
  const std::string digits = std::to_string(number);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string short_bytes(double bytes) {
  if (bytes < 1000) return fmt::format("{:.0f} B", bytes);
  constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB"};
  size_t unit = 0;
  for (bytes /= 1000; bytes >= 999.5 && unit + 1 < std::size(kUnits); bytes /= 1000) ++unit;
  const int decimals = bytes < 10 ? 2 : bytes < 100 ? 1 : 0;
  return fmt::format("{:.{}f} {}", bytes, decimals, kUnits[unit]);
}

std::string short_duration(double seconds) {
  if (seconds < 60) return fmt::format("{:.{}f} s", seconds, seconds < 1 ? 3 : 1);
  const auto whole = static_cast<uint64_t>(std::lround(seconds));
  return whole < 3600 ? fmt::format("{}:{:02}", whole / 60, whole % 60)
                      : fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string short_rate(double bytes, double seconds) { return short_bytes(per(bytes, seconds)) + "/s"; }

std::string short_error(double relative_error) {
  return relative_error == 0 ? "0" : fmt::format("{:.3g}", relative_error);
}

}  // namespace kvpack::cli
