// SPDX-License-Identifier: Apache-2.0
// Options that take a time or a speed with its unit.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "formats/result.h"

namespace kvpack::cli {

// "1.5s", "200ms", "2min"; a bare number is seconds. Errors: invalid_argument.
Result<double> parse_duration_s(std::string_view text);
// In bytes per second: "100Mbit", "1Gbit/s", "2.5MB/s", "400kB"; decimal units. A bare number is refused: bits and
// bytes differ by eight. Errors: invalid_argument.
Result<double> parse_bytes_per_s(std::string_view text);
// "20GB", "512MiB", or a number of bytes. Errors: invalid_argument.
Result<double> parse_bytes(std::string_view text);

CLI::Option* add_duration(CLI::App& app, const std::string& names, std::optional<double>& seconds,
                          const std::string& description);
CLI::Option* add_bandwidth(CLI::App& app, const std::string& names, std::optional<double>& bytes_per_s,
                           const std::string& description);
CLI::Option* add_size(CLI::App& app, const std::string& names, std::optional<double>& bytes,
                      const std::string& description);

}  // namespace kvpack::cli
