// SPDX-License-Identifier: Apache-2.0
#include "cli/quantity_options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <vector>

namespace kvpack::cli {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

// A number, then one of `units`.
std::optional<double> parse_with_unit(std::string_view text, const std::vector<Unit>& units) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || !std::isfinite(number) || number < 0) return std::nullopt;
  std::string_view name(stopped, static_cast<size_t>(end - stopped));
  while (!name.empty() && name.front() == ' ') name.remove_prefix(1);
  for (const Unit& unit : units) {
    if (unit.name == name) return number * unit.factor;
  }
  return std::nullopt;
}

CLI::Option* add_quantity(CLI::App& app, const std::string& names, std::optional<double>& value, const char* type,
                          Result<double> (*parse)(std::string_view), const std::string& description) {
  const auto fill = [&value, parse](const CLI::results_t& given) {
    const auto parsed = parse(given.front());
    if (!parsed.ok()) return false;
    value = *parsed;
    return true;
  };
  const auto check = [parse](const std::string& given) {
    const auto parsed = parse(given);
    return parsed.ok() ? std::string() : parsed.error().message;
  };
  return app.add_option(names, fill, description)->type_name(type)->check(CLI::Validator(check, ""));
}

}  // namespace

Result<double> parse_duration_s(std::string_view text) {
  const auto seconds = parse_with_unit(text, {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"min", 60}});
  if (seconds) return *seconds;
  return invalid_argument(fmt::format("'{}' is not a time: expected 1.5s, 200ms or 2min", text));
}

Result<double> parse_bytes_per_s(std::string_view text) {
  std::string_view amount = text;
  if (amount.size() > 2 && amount.substr(amount.size() - 2) == "/s") amount.remove_suffix(2);
  const auto rate = parse_with_unit(amount, {{"kbit", 125},
                                             {"Mbit", 125e3},
                                             {"Gbit", 125e6},
                                             {"kb", 125},
                                             {"Mb", 125e3},
                                             {"Gb", 125e6},
                                             {"kB", 1e3},
                                             {"MB", 1e6},
                                             {"GB", 1e9}});
  if (rate && *rate > 0) return *rate;
  return invalid_argument(fmt::format("'{}' is not a bandwidth: expected 100Mbit, 1Gbit or 12.5MB (per second)", text));
}

Result<double> parse_bytes(std::string_view text) {
  const auto bytes = parse_with_unit(text, {{"", 1},
                                            {"B", 1},
                                            {"kB", 1e3},
                                            {"MB", 1e6},
                                            {"GB", 1e9},
                                            {"TB", 1e12},
                                            {"KiB", 1024.0},
                                            {"MiB", 1048576.0},
                                            {"GiB", 1073741824.0}});
  if (bytes && *bytes < 1e18) return *bytes;
  return invalid_argument(fmt::format("'{}' is not a size: expected 20GB, 512MiB or a number of bytes", text));
}

CLI::Option* add_duration(CLI::App& app, const std::string& names, std::optional<double>& seconds,
                          const std::string& description) {
  return add_quantity(app, names, seconds, "TIME", parse_duration_s, description);
}

CLI::Option* add_bandwidth(CLI::App& app, const std::string& names, std::optional<double>& bytes_per_s,
                           const std::string& description) {
  return add_quantity(app, names, bytes_per_s, "RATE", parse_bytes_per_s, description);
}

CLI::Option* add_size(CLI::App& app, const std::string& names, std::optional<double>& bytes,
                      const std::string& description) {
  return add_quantity(app, names, bytes, "SIZE", parse_bytes, description);
}

}  // namespace kvpack::cli
