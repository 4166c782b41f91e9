// SPDX-License-Identifier: Apache-2.0
// "did you mean": the closest known word to a mistyped one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kvpack::cli {

// Insertions, deletions, substitutions and swaps of neighbours that turn one word into the other (optimal string
// alignment).
size_t edit_distance(std::string_view a, std::string_view b);

// The closest of `known`, or "" if none is close enough to be meant.
std::string closest_word(std::string_view word, const std::vector<std::string>& known);

}  // namespace kvpack::cli
