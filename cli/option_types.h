// SPDX-License-Identifier: Apache-2.0
// Kinds of option values that several verbs share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "codec/archive_codec.h"

namespace kvpack::cli {

// "A:B" (from A up to but not including B), "A:", ":B" or "A" (one item). Errors: invalid_argument.
Result<IndexRange> parse_range(std::string_view text);

// An option that takes one of `choices`; help and completions show them.
CLI::Option* add_choice(CLI::App& app, const std::string& names, std::string& value, std::vector<std::string> choices,
                        const std::string& description);
CLI::Option* add_range(CLI::App& app, const std::string& names, std::string& value, const std::string& description);
CLI::Option* add_number_above(CLI::App& app, const std::string& names, std::optional<double>& value, double limit,
                              const std::string& description);

// The type name of options and arguments that take a file name.
inline constexpr const char* kFileType = "FILE";

}  // namespace kvpack::cli
