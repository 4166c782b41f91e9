// SPDX-License-Identifier: Apache-2.0
#include "cli/option_types.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace kvpack::cli {
namespace {

bool parse_index(std::string_view text, uint32_t* out) {
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, *out);
  return error == std::errc() && stopped == end;
}

}  // namespace

Result<IndexRange> parse_range(std::string_view text) {
  IndexRange range;
  const size_t colon = text.find(':');
  const std::string_view first = text.substr(0, colon);
  bool valid = !text.empty() && text != ":";
  if (!first.empty()) valid = valid && parse_index(first, &range.begin);
  if (colon == std::string_view::npos) {
    range.end = range.begin + 1;
  } else if (const std::string_view last = text.substr(colon + 1); !last.empty()) {
    valid = valid && parse_index(last, &range.end);
  }
  if (!valid) return invalid_argument(fmt::format("'{}' is not a range: expected A:B, A:, :B or A", text));
  if (range.begin >= range.end) return invalid_argument(fmt::format("'{}' is an empty range", text));
  return range;
}

CLI::Option* add_choice(CLI::App& app, const std::string& names, std::string& value, std::vector<std::string> choices,
                        const std::string& description) {
  const std::string type = fmt::format("{}", fmt::join(choices, "|"));
  const auto check = [choices = std::move(choices)](const std::string& given) {
    if (std::find(choices.begin(), choices.end(), given) != choices.end()) return std::string();
    return fmt::format("'{}' is not one of {}", given, fmt::join(choices, ", "));
  };
  return app.add_option(names, value, description)->type_name(type)->check(CLI::Validator(check, ""));
}

CLI::Option* add_range(CLI::App& app, const std::string& names, std::string& value, const std::string& description) {
  const auto check = [](const std::string& given) {
    const auto range = parse_range(given);
    return range.ok() ? std::string() : range.error().message;
  };
  return app.add_option(names, value, description)->type_name("A:B")->check(CLI::Validator(check, ""));
}

CLI::Option* add_number_above(CLI::App& app, const std::string& names, std::optional<double>& value, double limit,
                              const std::string& description) {
  const auto check = [limit](const std::string& given) {
    double number = 0;
    const char* end = given.data() + given.size();
    const auto [stopped, error] = std::from_chars(given.data(), end, number);
    const bool valid = error == std::errc() && stopped == end && std::isfinite(number) && number > limit;
    return valid ? std::string() : fmt::format("'{}' is not a number above {}", given, limit);
  };
  return app.add_option(names, value, description)->type_name("NUMBER")->check(CLI::Validator(check, ""));
}

}  // namespace kvpack::cli
