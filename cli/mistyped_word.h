// SPDX-License-Identifier: Apache-2.0
// Verbs and options that do not exist, each with the one that was probably meant.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "formats/result.h"

namespace kvpack::cli {

// The first word of `arguments` (without the program's name) that is an unknown verb or option.
std::optional<Error> find_mistyped_word(const CLI::App& program, const std::vector<std::string>& arguments);

// "did you mean 'encode'?", or a list of the verbs.
std::string suggested_verb(const CLI::App& program, const std::string& word);

}  // namespace kvpack::cli
